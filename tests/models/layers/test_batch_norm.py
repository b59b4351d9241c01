import numpy as np
import paddle
import pytest

from models.layers.batch_norm import BatchNorm
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("way")

COUNT = 20
ROUNDINGS = 10  # of a row on its way through the layer, its sums aside


@pytest.fixture
def norm():
    paddle.seed(0)
    layer = BatchNorm(3)
    layer.weight.set_value(paddle.rand([3]) + 0.5)
    layer.bias.set_value(paddle.rand([3]))
    return layer


@pytest.mark.parametrize("count", [2, 40, 200_000])  # one block of rows, and several
def test_a_batch_is_normalised_by_its_own_mean_and_biased_variance(norm, count, way):
    rows = np.random.default_rng(0).standard_normal((count, 3)) * [1, 5, 0.1] + [0, 100, -2]
    rows = rows.astype(np.float32).astype(np.float64)
    found = norm(paddle.to_tensor(rows.astype(np.float32))).numpy()
    mean, factor = rows.mean(axis=0), norm.weight.numpy() / np.sqrt(rows.var(axis=0) + 1e-5)
    expected = (rows - mean) * factor + norm.bias.numpy()
    # The mean is rounded to 32 bits, and each row's distance from it; then come factor, product and bias.
    scale = (np.abs(rows) + np.abs(mean)) * factor + norm.bias.numpy()
    summed = count if way == "off the CPU" else 0  # in double precision on the CPU
    assert_close(found, expected, ROUNDINGS + summed, scale)


def test_running_statistics_take_a_tenth_of_the_mean_and_of_the_unbiased_variance(norm):
    rows = paddle.randn([5, 3]) * 2 + 1
    norm(rows)
    rows = rows.numpy().astype(np.float64)
    scale = 0.1 * np.abs(rows).mean(axis=0)
    assert_close(norm._mean.numpy(), 0.1 * rows.mean(axis=0), 5 + ROUNDINGS, scale)
    expected = 0.9 + 0.1 * rows.var(axis=0, ddof=1)
    assert_close(norm._variance.numpy(), expected, 5 + ROUNDINGS, expected)


def test_evaluation_uses_the_running_statistics_and_leaves_them(norm):
    norm(paddle.randn([5, 3]))
    norm.eval()
    mean, variance = norm._mean.numpy(), norm._variance.numpy()
    rows = paddle.randn([4, 3])
    factor = norm.weight.numpy() / np.sqrt(variance + 1e-5)
    expected = (rows.numpy() - mean) * factor + norm.bias.numpy()
    scale = (np.abs(rows.numpy()) + np.abs(mean)) * factor + norm.bias.numpy()
    assert_close(norm(rows).numpy(), expected, ROUNDINGS, scale)
    np.testing.assert_array_equal(norm._mean.numpy(), mean)


def test_gradients_are_those_of_the_formula(norm):
    found = []
    for ours in (True, False):
        paddle.seed(1)
        rows = paddle.randn([COUNT, 3])
        rows.stop_gradient = False
        if ours:
            normalised = norm(rows)
        else:
            centered = rows - rows.mean(axis=0)
            deviation = paddle.sqrt((centered**2).mean(axis=0) + 1e-5)
            normalised = centered / deviation * norm.weight + norm.bias
        (normalised**3).sum().backward()
        found.append([tensor.grad.numpy().copy() for tensor in (rows, norm.weight, norm.bias)])
        norm.clear_gradients()
    for ours, expected in zip(*found, strict=True):
        assert_close(ours, expected, 3 * COUNT + 2 * ROUNDINGS)  # mean, variance and the gradient's own sums


def test_one_row_counts_as_its_own_mean(norm):
    row = paddle.randn([1, 3])
    np.testing.assert_array_equal(norm(row).numpy(), norm.bias.numpy()[None])
    assert_close(norm._mean.numpy(), 0.1 * row.numpy()[0], 3)
