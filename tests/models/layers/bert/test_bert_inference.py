"""Without gradients a BERT on the CPU scores as it does with them."""

import numpy as np
import paddle
import pytest

from models.layers.bert import layers, row_plan
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
@pytest.mark.parametrize("packed_from", [0, 2048])  # matrices are packed and gelu is fused, or not
def test_scores_with_and_without_gradients_are_the_same(
    monkeypatch, attention, num_layers, rows_together, packed_from
):
    monkeypatch.setattr(row_plan, "ROWS_TOGETHER", rows_together)
    monkeypatch.setattr(layers, "_PACKED_FROM", packed_from)
    paddle.seed(0)
    model = Oscar(shape_of(num_layers=num_layers), attention=attention)
    for parameter in model.parameters():  # biases and norms begin at 0 and 1
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    for batch in (batch_of(1), batch_of(9), *shared_batch()):
        found, expected = both_logits(model, batch)
        assert_close(found, expected, roundings(num_layers))
    assert expected.std() > 0.01


def test_nothing_is_kept_for_gradients_that_nobody_asks_for(monkeypatch):
    model, batch, kept = Oscar(shape_of(dropout=0.5)), batch_of(), []
    step = layers._Step

    def counted(*arguments):
        kept.append(arguments[-1])
        return step(*arguments)

    monkeypatch.setattr(layers, "_Step", counted)
    with paddle.no_grad():
        one, other = model(batch)["logits"].numpy(), model(batch)["logits"].numpy()
    assert np.abs(one - other).max() > 1e-3  # dropout is at work
    assert not any(kept)
    model.eval()
    model(batch)
    assert all(kept[-2:])
