"""Without gradients a BERT on the CPU scores as it does with them."""

import numpy as np
import paddle
import pytest

from models.layers import bert_inference
from models.oscar import Oscar
from tests.closeness import assert_close
from tests.models.test_oscar import batch_of, roundings, shape_of, shared_batch

pytestmark = pytest.mark.usefixtures("with_and_without_mkl")


def both_logits(model, batch):
    model.eval()
    expected = model(batch)["logits"].numpy()
    with paddle.no_grad():
        return model(batch)["logits"].numpy(), expected


@pytest.mark.parametrize("attention", ["CLR", "CR"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("rows_together", [1, 20, 512])
def test_scores_with_and_without_gradients_are_the_same(monkeypatch, attention, num_layers, rows_together):
    monkeypatch.setattr(bert_inference, "ROWS_TOGETHER", rows_together)
    paddle.seed(0)
    model = Oscar(shape_of(num_layers=num_layers), attention=attention)
    for parameter in model.parameters():  # biases and norms begin at 0 and 1
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    for batch in (batch_of(1), batch_of(9), *shared_batch()):
        found, expected = both_logits(model, batch)
        assert_close(found, expected, roundings(num_layers))
    assert expected.std() > 0.01


def test_the_way_without_gradients_is_taken_in_evaluation_alone(monkeypatch):
    model, batch = Oscar(shape_of(dropout=0.5)), batch_of()

    def refuse(*inputs):
        raise AssertionError("not here")

    monkeypatch.setattr("models.bert.first_rows", refuse)
    with paddle.no_grad():
        one, other = model(batch)["logits"].numpy(), model(batch)["logits"].numpy()
    assert np.abs(one - other).max() > 1e-3  # dropout is at work
    model.eval()
    model(batch)
    with paddle.no_grad(), pytest.raises(AssertionError, match="not here"):
        model(batch)


def test_groups_hold_every_sequence_once(monkeypatch):
    monkeypatch.setattr(bert_inference, "ROWS_TOGETHER", 10)
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 50):
        ends = np.concatenate([[0], np.cumsum(random.integers(1, 12, count))])
        groups = bert_inference._groups(ends)
        assert np.concatenate([np.arange(count)[group] for group in groups]).tolist() == list(range(count))
        assert max(ends[group.stop] - ends[group.start] for group in groups) <= 10 + 2 * 11
