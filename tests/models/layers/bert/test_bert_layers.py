"""BERT's layers as one node of autograd: values and gradients are those of Paddle's own layers."""

import math

import numpy as np
import paddle
import pytest

from models.bert import Bert
from models.kernels import row_blocks
from models.layers import fused
from models.layers.bert import layers, row_plan, run_attention
from models.layers.bert.row_plan import plan_rows
from models.layers.bert.sequences import Sequences
from models.oscar import Oscar, attention_between
from tests.closeness import assert_close, largest
from tests.models.test_oscar import LONGEST, batch_of, roundings, shape_of
from tests.other_processors import off_the_cpu

pytestmark = pytest.mark.usefixtures("with_and_without_mkl")

# Words 1 and 3 of pair 6, and word 2 of pair 8; nothing of pair 7 is asked for.
ASKED = {"masked_pair": [6, 6, 8], "masked_place": [1, 3, 2], "match": [1] * 6}


def model_of(**options):
    """Return a model that guesses words, with biases and norms that are not 0 and 1."""
    paddle.seed(0)
    attention = options.pop("attention", "CLR")
    model = Oscar(shape_of(**options), attention=attention, guesses_words=True)
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.2 * paddle.randn(parameter.shape))
    return model


def found_by(model, batch):
    """Return the logits of pairs and words, and the gradients of a weighted sum of both by name."""
    model.clear_gradients()
    outputs = model(batch)
    random, total = np.random.default_rng(0), 0.0
    for logits in outputs.values():
        slope = random.standard_normal(logits.shape).astype(np.float32)
        total = total + (logits * paddle.to_tensor(slope)).sum()
    total.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {name: logits.numpy() for name, logits in outputs.items()}, gradients


def batch_with_words():
    return batch_of(9) | {name: paddle.to_tensor(numbers) for name, numbers in ASKED.items()}


def assert_same(ours, others, num_layers):
    for name, logits in others[0].items():
        assert_close(ours[0][name], logits, roundings(num_layers) + 12 + 24, err_msg=name)
    for name, gradient in others[1].items():
        terms = 2 * (roundings(num_layers) + 12 + 24) + 9 * LONGEST
        assert_close(ours[1][name], gradient, terms, largest(others[1].values()), err_msg=name)


@pytest.mark.parametrize("attention", ["CLR", "CR"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("rows_together", [1, 20, 1024])
def test_values_and_gradients_are_those_of_the_plain_layers(
    monkeypatch, attention, num_layers, rows_together
):
    monkeypatch.setattr(row_plan, "ROWS_TOGETHER", rows_together)
    model, batch = model_of(num_layers=num_layers, attention=attention), batch_with_words()
    ours = found_by(model, batch)
    off_the_cpu(monkeypatch)
    assert_same(ours, found_by(model, batch), num_layers)
    assert min(np.abs(gradient).max() for gradient in ours[1].values()) > 0
    keys = ours[1]["bert.layers.0.key_value.bias"][:12]
    np.testing.assert_array_equal(keys, 0)  # no softmax depends on it


def test_long_sequences_are_multiplied_by_mkl_to_the_same_result(monkeypatch):
    model, batch = model_of(), batch_with_words()
    ours = found_by(model, batch)
    monkeypatch.setattr(run_attention, "SHORT", 0)
    assert_same(found_by(model, batch), ours, 2)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_rounding_alone_and_no_run_differs_from_another(monkeypatch, threads):
    monkeypatch.setattr(row_plan, "ROWS_TOGETHER", 8)
    model, batch = model_of(), batch_with_words()
    alone = found_by(model, batch)
    monkeypatch.setattr(row_blocks, "num_threads", lambda: threads)
    one, other = found_by(model, batch), found_by(model, batch)
    assert_same(one, alone, 2)
    for first, second in zip(one, other, strict=True):
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_gradients_with_dropout_by_differences(monkeypatch):
    """In double precision, with the same masks on both sides of each difference."""
    monkeypatch.setattr(row_plan, "ROWS_TOGETHER", 20)
    exact_erf = np.vectorize(math.erf, otypes=[float])
    monkeypatch.setattr(fused, "erf", lambda x: np.copyto(x, exact_erf(x)))
    paddle.set_default_dtype("float64")
    try:
        model = model_of(dropout=0.3, attention_dropout=0.2)
        batch = batch_with_words()
        batch["regions"] = batch["regions"].astype("float64")

        def total():
            paddle.seed(7)
            outputs = model(batch)
            return (outputs["logits"] ** 2).sum() + (outputs["word_logits"] ** 2).sum()

        total().backward()
        random, step = np.random.default_rng(0), 1e-5
        for name, parameter in model.named_parameters():
            start, direction = parameter.numpy(), random.standard_normal(parameter.shape)
            sums = []
            for sign in (1, -1):
                parameter.set_value(start + sign * step * direction)
                sums.append(float(total()))
            parameter.set_value(start)
            slope = (sums[0] - sums[1]) / (2 * step)
            found = float((parameter.grad.numpy() * direction).sum())
            np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-5, err_msg=name)
    finally:
        paddle.set_default_dtype("float32")


def test_each_row_and_each_weight_of_attention_is_dropped_with_its_share():
    dropout = layers.Dropout(0.25, 0.1, seed=3)
    for share in (0.25, 0.1):
        factors = dropout.factors(share, (100, 400), (0, 1, 2))
        assert set(np.unique(factors)) == {0, np.float32(1 / (1 - share))}
        assert abs((factors == 0).mean() - share) < 0.01
        np.testing.assert_array_equal(factors, dropout.factors(share, (100, 400), (0, 1, 2)))
        assert (factors != dropout.factors(share, (100, 400), (0, 1, 1))).any()
    assert dropout.factors(0.0, (2, 2), (0, 0, 0)) is None


def test_dropout_is_at_work_in_training_alone():
    model, batch = model_of(dropout=0.5, attention_dropout=0.5), batch_with_words()
    one, other = model(batch)["logits"].numpy(), model(batch)["logits"].numpy()
    assert np.abs(one - other).max() > 1e-3
    model.eval()
    np.testing.assert_array_equal(model(batch)["logits"].numpy(), model(batch)["logits"].numpy())


def test_what_is_frozen_has_no_gradient():
    model, batch = model_of(), batch_with_words()
    still = [*model.bert.layers[0].parameters(), model.bert.layers[1].norm.bias]
    for parameter in still:
        parameter.stop_gradient = True
    (model(batch)["logits"] ** 2).sum().backward()
    assert all(parameter.grad is None for parameter in still)
    assert np.abs(model.bert.layers[1].widen.weight.grad.numpy()).max() > 0


@pytest.mark.parametrize("rows_together", [1, 10, 1024])
def test_a_plan_takes_the_sequences_of_which_rows_are_asked_for(monkeypatch, rows_together):
    monkeypatch.setattr(row_plan, "ROWS_TOGETHER", rows_together)
    random = np.random.default_rng(0)
    length = random.integers(1, 6, 30)
    sequences = Sequences(length)
    asked = random.choice(length.sum(), 25, replace=False)
    plan = plan_rows(sequences, asked, heads=2)
    of_row = np.repeat(np.arange(30), length)
    taken = np.unique(of_row[asked])
    assert len(taken) < 30
    np.testing.assert_array_equal(np.sort(plan.origin), np.flatnonzero(np.isin(of_row, taken)))
    assert (np.diff(length[of_row[plan.origin]]) >= 0).all()
    found = np.empty(25, np.int64)
    for block in plan.blocks:
        rows = plan.origin[block.rows]
        found[plan.places[block.places]] = rows[block.asked]
        for runs, asking in ((block.runs, np.arange(len(rows))), (block.asked_runs, block.asked)):
            assert runs[0].rows.start == 0 and runs[-1].rows.stop == len(rows)
            assert runs[-1].queries.stop == len(asking)
            for run in runs:
                own = of_row[rows[run.rows]].reshape(run.count, -1)
                assert (own == own[:, :1]).all()  # the rows of one sequence each
                queries = of_row[rows[asking[run.queries]]].reshape(run.count, -1)
                assert (queries == own[:, :1]).all()
    np.testing.assert_array_equal(found, asked)


def test_masks_say_who_attends_to_whom():
    kinds = np.array([0, 1, 2, 0, 2])
    attends = attention_between("CL")
    plan = plan_rows(Sequences(np.array([3, 2]), kinds, attends), np.array([0, 4]), heads=1)
    (block,) = plan.blocks
    short, long = block.asked_runs
    np.testing.assert_array_equal(plan.origin, [3, 4, 0, 1, 2])
    np.testing.assert_array_equal(short.mask[:, 0, 0, 0] < 0, [True, False])  # a region hears regions
    np.testing.assert_array_equal(long.mask[:, 0, 0, 0] < 0, [False, False, True])
    assert [run.mask.shape for run in block.runs] == [(2, 1, 1, 2), (3, 1, 1, 3)]


def test_text_alone_trains_too(monkeypatch):
    paddle.seed(0)
    model, batch = Bert(shape_of(region_dim=0)), batch_of()
    found = []
    for _ in range(2):
        model.clear_gradients()
        (model(batch) ** 2).sum().backward()
        found.append([parameter.grad.numpy() for parameter in model.parameters()])
        off_the_cpu(monkeypatch)
    for ours, plain in zip(*found, strict=True):
        assert_close(ours, plain, 2 * roundings() + 4 * LONGEST, largest(found[1]))
