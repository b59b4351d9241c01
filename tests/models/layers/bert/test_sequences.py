import numpy as np
import paddle
import pytest

from models.layers.bert import row_plan, run_attention
from models.layers.bert.row_plan import plan_rows
from models.layers.bert.sequences import Sequences, attend_padded, real_places
from tests.closeness import SINGLE, assert_close, largest

pytestmark = pytest.mark.usefixtures("with_and_without_mkl")

HEADS, SIZE = 2, 3
DIM = HEADS * SIZE
LENGTH = np.array([4, 1, 3])
KINDS = np.array([0, 0, 1, 2, 0, 0, 1, 1])
ATTENDS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)

# Biases, a score's product with its factor, its exponential and the sum of those, then a sum of values.
ROUNDINGS = 4 + SIZE + 2 + 2 * LENGTH.max()


@pytest.fixture(autouse=True, params=["together", "one by one"])
def way(request, monkeypatch):
    """Let runs be multiplied by NumPy and hold all sequences of a length, or by MKL and hold one each."""
    if request.param == "one by one":
        monkeypatch.setattr(run_attention, "SHORT", 0)
        monkeypatch.setattr(row_plan, "_SCORES_TOGETHER", 1)


def inputs(first_only):
    """Return queries, keys and values, and the biases of both; and the slope of a sum over the result."""
    random = np.random.default_rng(0)
    count = len(LENGTH) if first_only else LENGTH.sum()
    shapes = (count, DIM), (8, 2 * DIM), (DIM,), (2 * DIM,)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    return tensors, random.standard_normal((count, DIM)).astype(np.float32)


def by_loops(query, key_value, first_only, attends):
    """Attend row by row and head by head, in double precision."""
    query, key_value = query.astype(float), key_value.astype(float)
    context, start = np.zeros_like(query), 0
    for number, length in enumerate(LENGTH):
        for place in range(1 if first_only else length):
            row = number if first_only else start + place
            for head in range(HEADS):
                own = slice(head * SIZE, (head + 1) * SIZE)
                weights = np.zeros(length)
                for other in range(length):
                    if attends is None or attends[KINDS[start + place], KINDS[start + other]]:
                        key = key_value[start + other, :DIM][own]
                        weights[other] = np.exp(query[row, own] @ key / np.sqrt(SIZE))
                for other in range(length):
                    value = key_value[start + other, DIM:][own]
                    context[row, own] += weights[other] / weights.sum() * value
        start += length
    return context


def no_factors(shape, number):
    return None


def attend_by_runs(
    query, key_value, query_bias, key_value_bias, sequences, d_context=None, factors_of=no_factors
):
    """Attend in the order of a plan; return the context, and given its gradient those of the inputs."""
    first_only = len(query) < len(key_value)
    asked = sequences.ends[:-1] if first_only else np.arange(sequences.ends[-1])
    plan = plan_rows(sequences, asked, HEADS)
    (block,) = plan.blocks
    scale = np.float32(1 / np.sqrt(query.shape[1] // HEADS))
    queries = ((query + query_bias) * scale)[plan.places]
    rows = (key_value + key_value_bias)[plan.origin]
    of_plan = queries, rows, block.asked_runs, HEADS
    context, softmax = run_attention.attend(*of_plan, factors_of)
    found = np.empty_like(context)
    found[plan.places] = context
    if d_context is None:
        return found
    d_queries, d_rows = run_attention.attend_back(d_context[plan.places], *of_plan, softmax)
    d_query, d_key_value = np.empty_like(query), np.empty_like(key_value)
    d_query[plan.places], d_key_value[plan.origin] = d_queries * scale, d_rows
    return found, d_query, d_key_value, d_query.sum(axis=0), d_key_value.sum(axis=0)


def attend_off_the_cpu(*inputs):
    query, key_value, query_bias, key_value_bias, sequences = inputs
    tensors = [paddle.to_tensor(array) for array in (query + query_bias, key_value + key_value_bias)]
    return attend_padded(*tensors, sequences, HEADS, 0.0).numpy()


@pytest.mark.parametrize("attends", [None, ATTENDS], ids=["all", "some"])
@pytest.mark.parametrize("first_only", [False, True], ids=["every row asks", "the first rows ask"])
@pytest.mark.parametrize("function", [attend_by_runs, attend_off_the_cpu])
def test_attention_by_loops(function, first_only, attends):
    sequences = Sequences(LENGTH, None if attends is None else KINDS, attends)
    tensors, _ = inputs(first_only)
    query, key_value, query_bias, key_value_bias = arrays = [tensor.numpy() for tensor in tensors]
    expected = by_loops(query + query_bias, key_value + key_value_bias, first_only, attends)
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            assert_close(function(*arrays, sequences), expected, ROUNDINGS)


@pytest.mark.parametrize("attends", [None, ATTENDS], ids=["all", "some"])
@pytest.mark.parametrize("first_only", [False, True], ids=["every row asks", "the first rows ask"])
def test_both_ways_have_the_same_gradients(first_only, attends):
    sequences = Sequences(LENGTH, None if attends is None else KINDS, attends)
    tensors, slope = inputs(first_only)
    query, key_value, query_bias, key_value_bias = tensors
    context = attend_padded(query + query_bias, key_value + key_value_bias, sequences, HEADS, 0.0)
    (context * paddle.to_tensor(slope)).sum().backward()
    expected = [tensor.grad.numpy() for tensor in tensors]
    _, *found = attend_by_runs(*(tensor.numpy() for tensor in tensors), sequences, slope)
    for ours, paddles in zip(found, expected, strict=True):
        assert np.abs(ours).max() > 0.1
        assert_close(ours, paddles, 2 * ROUNDINGS + LENGTH.sum(), largest(expected))


def test_dropout_drops_its_share_and_its_gradient_fits():
    """With equal scores and values of 1 a row's context is the kept share of its values, scaled up."""
    sequences, random = Sequences(np.array([400, 300])), np.random.default_rng(3)
    query, biases = (
        np.zeros((700, DIM), np.float32),
        (np.zeros(DIM, np.float32), np.zeros(2 * DIM, np.float32)),
    )
    key_value = np.concatenate([query, query + 1], axis=1)

    def factors_of(shape, number):
        return (random.random(shape) >= 0.25).astype(np.float32) / np.float32(0.75)

    found = attend_by_runs(query, key_value, *biases, sequences, np.ones_like(query), factors_of)
    context, _, d_key_value, *_ = found
    kept = context[:400] * 400 * 0.75
    assert_close(kept, np.round(kept).astype(int), 400)
    assert abs(kept.mean() / 400 - 0.75) < 0.01 and kept.std() > 1
    # The sum is linear in the values: their gradient times them (ones) is the sum itself.
    gradient = d_key_value[:, DIM:].sum(dtype=np.float64)
    assert_close(gradient, context.sum(dtype=np.float64), 400, unit=2 * SINGLE)


def test_padding_and_packing():
    sequences = Sequences(LENGTH)
    rows = paddle.arange(1, 9, dtype="float32").unsqueeze(1)
    padded = sequences.pad(rows)
    np.testing.assert_array_equal(padded.squeeze(2).numpy(), [[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 8, 0]])
    np.testing.assert_array_equal(sequences.pack(padded).numpy(), rows.numpy())
    np.testing.assert_array_equal(sequences.first.numpy(), [0, 4, 5])
    np.testing.assert_array_equal(real_places(LENGTH, 5), [0, 1, 2, 3, 5, 10, 11, 12])
