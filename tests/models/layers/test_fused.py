import math

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from models.layers.fused import Linear, ResidualNorm, dropout_mask, dropout_seed, write_gelu
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("with_and_without_mkl")

ROWS, DIM = 300, 7
OF_A_ROW = 6 * DIM + 10  # roundings: mean, variance and a product, there and back, and gelu


def rows_of(seed, scale=1.0, dim=DIM):
    paddle.seed(seed)
    rows = paddle.randn([ROWS, dim]) * scale
    rows.stop_gradient = False
    return rows


def compare(ours, paddles, inputs, parameters):
    """Compare two functions' values, and their gradients towards inputs and parameters."""
    slope = rows_of(9, dim=ours(*inputs).shape[1])
    found = []
    for function in (ours, paddles):
        for tensor in (*inputs, *parameters):
            tensor.clear_gradient(False)
        result = function(*inputs)
        (result * slope).sum().backward()
        found.append([result.numpy(), *(tensor.grad.numpy() for tensor in (*inputs, *parameters))])
    for one, other in zip(*found, strict=True):
        summed = ROWS if len(one) != ROWS else 0  # gradients of weights are sums over the rows
        assert_close(one, other, OF_A_ROW + summed)


def test_linear_and_its_gradients():
    layer = Linear(DIM, 5)
    layer.bias.set_value(paddle.randn([5]))
    compare(
        layer,
        lambda rows: functional.linear(rows, layer.weight, layer.bias),
        [rows_of(0)],
        [layer.weight, layer.bias],
    )


def test_a_map_without_its_bias():
    layer = Linear(DIM, 5)
    layer.bias.set_value(paddle.randn([5]))
    rows = rows_of(0)
    assert_close((layer.without_bias(rows) + layer.bias).numpy(), layer(rows).numpy(), DIM + 1)


def bias_of(seed):
    paddle.seed(seed)
    bias = paddle.randn([DIM])
    bias.stop_gradient = False
    return bias


def test_gelu_and_its_slope():
    rows, bias = rows_of(0, scale=4), bias_of(1)
    expected = functional.gelu(rows + bias)
    expected.sum().backward()
    for slope in (np.empty((ROWS, DIM), np.float32), None):
        found = rows.numpy().copy()
        assert write_gelu(found, bias.numpy(), slope) is found
        assert_close(found, expected.numpy(), OF_A_ROW)
        if slope is not None:
            assert_close(slope, rows.grad.numpy(), OF_A_ROW)


def test_the_slope_of_gelu_by_its_definition():
    points = [0.0, -0.0, 1e-30, -9e-4, 9e-4, 1.1e-3, -1.1e-3, 0.5, -3, -8, 8, -40, 40, -1e5, 1e5]
    rows, slope = np.array([points], np.float32), np.empty((1, len(points)), np.float32)
    with np.errstate(under="ignore"):
        write_gelu(rows, np.zeros(len(points), np.float32), slope)
    for point, value, found in zip(points, rows[0], slope[0], strict=True):
        share = 0.5 * (1 + math.erf(point / math.sqrt(2)))
        expected = share + point * math.exp(-point * point / 2) / math.sqrt(2 * math.pi)
        assert_close(found, expected, 31, scale=1.2, err_msg=point)  # 19 of erf without MKL
        assert_close(value, point * share, 31, scale=max(1, abs(point)), err_msg=point)


def test_residual_norm_and_its_gradients():
    layer = ResidualNorm(DIM, 1e-12, 0.0)
    layer.weight.set_value(paddle.rand([DIM]) + 0.5)
    layer.bias.set_value(paddle.randn([DIM]))
    compare(
        layer,
        lambda rows, bias, residual: functional.layer_norm(
            rows + bias + residual, [DIM], layer.weight, layer.bias, 1e-12
        ),
        [rows_of(0), bias_of(2), rows_of(1)],
        [layer.weight, layer.bias],
    )


def test_residual_norm_drops_in_training_alone():
    layer = ResidualNorm(DIM, 1e-12, 0.3)
    inputs = rows_of(0), bias_of(2), rows_of(1)
    whole = functional.layer_norm(sum(inputs), [DIM], layer.weight, layer.bias, 1e-12).numpy()
    assert np.abs(layer(*inputs).numpy() - whole).max() > 0.1
    layer.eval()
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            assert_close(layer(*inputs).numpy(), whole, OF_A_ROW)


def test_a_mask_keeps_its_share_and_depends_on_the_seed_alone():
    paddle.seed(4)
    seed = dropout_seed()
    kept = dropout_mask((ROWS, DIM), 0.3, seed)
    assert abs(kept.mean() - 0.7) < 0.03
    np.testing.assert_array_equal(kept, dropout_mask((ROWS, DIM), 0.3, seed))
    assert seed != dropout_seed()
    paddle.seed(4)
    assert seed == dropout_seed()


def test_what_is_frozen_has_no_gradient():
    linear = Linear(DIM, DIM)
    linear.weight.stop_gradient = True
    (linear(paddle.randn([ROWS, DIM])) * rows_of(1)).sum().backward()
    assert linear.weight.grad is None
    assert np.abs(linear.bias.grad.numpy()).max() > 0
