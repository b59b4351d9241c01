import math

import numpy as np
import paddle
import pytest

from models.layers.sequences import Sequences, attend, attend_padded, real_places
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
    """Let `attend` work on sequences of equal length together, or on each alone."""
    monkeypatch.setattr("models.layers.sequences.SHORT", math.inf if request.param == "together" else 0)


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


def attend_off_the_cpu(query, key_value, query_bias, key_value_bias, *settings):
    return attend_padded(query + query_bias, key_value + key_value_bias, *settings)


@pytest.mark.parametrize("attends", [None, ATTENDS], ids=["all", "some"])
@pytest.mark.parametrize("first_only", [False, True], ids=["every row asks", "the first rows ask"])
@pytest.mark.parametrize("function", [attend, attend_off_the_cpu])
def test_attention_by_loops(function, first_only, attends):
    sequences = Sequences(LENGTH, None if attends is None else KINDS, attends)
    tensors, _ = inputs(first_only)
    query, key_value, query_bias, key_value_bias = (tensor.numpy() for tensor in tensors)
    expected = by_loops(query + query_bias, key_value + key_value_bias, first_only, attends)
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            found = function(*tensors, sequences, HEADS, 0.0)
        assert_close(found.numpy(), expected, ROUNDINGS)


@pytest.mark.parametrize("attends", [None, ATTENDS], ids=["all", "some"])
@pytest.mark.parametrize("first_only", [False, True], ids=["every row asks", "the first rows ask"])
def test_both_ways_have_the_same_gradients(first_only, attends):
    sequences = Sequences(LENGTH, None if attends is None else KINDS, attends)
    found = []
    for function in (attend, attend_off_the_cpu):
        tensors, slope = inputs(first_only)
        (function(*tensors, sequences, HEADS, 0.0) * paddle.to_tensor(slope)).sum().backward()
        found.append([tensor.grad.numpy() for tensor in tensors])
    for ours, paddles in zip(*found, strict=True):
        assert np.abs(ours).max() > 0.1
        assert_close(ours, paddles, 2 * ROUNDINGS + LENGTH.sum(), largest(found[1]))


def test_dropout_drops_its_share_anew_each_time_and_its_gradient_fits():
    """With equal scores and one dimension a row's context is the kept share of its values, scaled up."""
    length = np.array([400, 300])
    sequences = Sequences(length)
    query = paddle.zeros([700, 1])
    key_value = paddle.concat([paddle.zeros([700, 1]), paddle.ones([700, 1])], axis=1)
    key_value.stop_gradient = False
    paddle.seed(3)
    inputs = query, key_value, paddle.zeros([1]), paddle.zeros([2])
    first = attend(*inputs, sequences, 1, 0.25)
    first.sum().backward()
    kept = first.numpy()[:400, 0] * 400 * 0.75
    assert_close(kept, np.round(kept).astype(int), 400)
    assert abs(kept.mean() / 400 - 0.75) < 0.01 and kept.std() > 1
    # The sum is linear in the values: their gradient times them (ones) is the sum itself.
    gradient = key_value.grad.numpy()[:, 1].sum(dtype=np.float64)
    assert_close(gradient, first.numpy().sum(dtype=np.float64), 400, unit=2 * SINGLE)
    second = attend(*inputs, sequences, 1, 0.25)
    assert not np.array_equal(first.numpy(), second.numpy())
    paddle.seed(3)
    np.testing.assert_array_equal(first.numpy(), attend(*inputs, sequences, 1, 0.25).numpy())


def test_padding_and_packing():
    sequences = Sequences(LENGTH)
    rows = paddle.arange(1, 9, dtype="float32").unsqueeze(1)
    padded = sequences.pad(rows)
    np.testing.assert_array_equal(padded.squeeze(2).numpy(), [[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 8, 0]])
    np.testing.assert_array_equal(sequences.pack(padded).numpy(), rows.numpy())
    np.testing.assert_array_equal(sequences.first.numpy(), [0, 4, 5])
    np.testing.assert_array_equal(real_places(LENGTH, 5), [0, 1, 2, 3, 5, 10, 11, 12])
