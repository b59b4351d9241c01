import math

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from models.layers.fused import Linear, ResidualNorm, dropout_mask, dropout_seed, gelu
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


def test_gelu_and_its_gradient():
    compare(gelu, lambda rows, bias: functional.gelu(rows + bias), [rows_of(0, scale=4), bias_of(1)], [])


def test_the_gradient_of_gelu_by_its_definition():
    points = [0.0, -0.0, 1e-30, -9e-4, 9e-4, 1.1e-3, -1.1e-3, 0.5, -3, -8, 8, -40, 40, -1e5, 1e5]
    rows = paddle.to_tensor(np.array([points], np.float32), stop_gradient=False)
    gelu(rows, paddle.zeros([len(points)])).sum().backward()
    for point, found in zip(points, rows.grad.numpy()[0], strict=True):
        expected = 0.5 * (1 + math.erf(point / math.sqrt(2)))
        expected += point * math.exp(-point * point / 2) / math.sqrt(2 * math.pi)
        assert_close(found, expected, 31, scale=1.2, err_msg=point)  # 19 of erf without MKL


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


def test_residual_norm_with_dropout_and_its_gradients():
    layer = ResidualNorm(DIM, 1e-12, 0.3)
    paddle.seed(4)
    kept = dropout_mask((ROWS, DIM), 0.3, dropout_seed())
    assert abs(kept.mean() - 0.7) < 0.03
    mask = paddle.to_tensor(kept.astype(np.float32) / np.float32(0.7))

    def ours(rows, bias, residual):
        paddle.seed(4)
        return layer(rows, bias, residual)

    compare(
        ours,
        lambda rows, bias, residual: functional.layer_norm(
            (rows + bias) * mask + residual, [DIM], layer.weight, layer.bias, 1e-12
        ),
        [rows_of(0), bias_of(2), rows_of(1)],
        [layer.weight, layer.bias],
    )
    layer.eval()
    inputs = rows_of(0), bias_of(2), rows_of(1)
    whole = functional.layer_norm(sum(inputs), [DIM], layer.weight, layer.bias, 1e-12).numpy()
    for mode in (paddle.enable_grad, paddle.no_grad):
        with mode():
            assert_close(layer(*inputs).numpy(), whole, OF_A_ROW)


def test_what_is_frozen_has_no_gradient():
    linear, norm = Linear(DIM, DIM), ResidualNorm(DIM, 1e-12, 0.0)
    linear.weight.stop_gradient = norm.bias.stop_gradient = True
    still = paddle.randn([ROWS, DIM])
    (norm(linear(still), bias_of(2), still) * rows_of(1)).sum().backward()
    assert linear.weight.grad is None and norm.bias.grad is None
    assert np.abs(linear.bias.grad.numpy()).max() > 0 and np.abs(norm.weight.grad.numpy()).max() > 0
