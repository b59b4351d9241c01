"""Linear maps through the door to products: values and gradients are those of the formula, in float64."""

import numpy as np
import paddle
import pytest

from models.kernels.precision import computing_in
from models.layers.lowered import Linear, product
from tests.closeness import SINGLE, assert_close

pytestmark = pytest.mark.usefixtures("way")

HALF = 2.0**-9  # what rounding to bfloat16 changes a number by, at most


def inputs(count, depth=70, width=33):
    random = np.random.default_rng(count)
    shapes = (count, depth), (depth, width), (width,)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def through_the_door(rows, weight, bias, transposed):
    tensors = [
        paddle.to_tensor(x, stop_gradient=False) for x in (rows, weight.T if transposed else weight, bias)
    ]
    mapped = product(*tensors[:2], transposed=transposed, bias=tensors[2])
    (mapped * paddle.arange(1, mapped.shape[1] + 1, dtype="float32")).sum().backward()
    d_rows, d_weight, d_bias = (tensor.grad.numpy() for tensor in tensors)
    return mapped.numpy(), d_rows, d_weight.T if transposed else d_weight, d_bias


def expected(rows, weight, bias):
    rows, weight, bias = (x.astype(np.float64) for x in (rows, weight, bias))
    d_mapped = np.tile(np.arange(1.0, weight.shape[1] + 1), (len(rows), 1))
    return rows @ weight + bias, d_mapped @ weight.T, rows.T @ d_mapped, d_mapped.sum(axis=0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_values_and_gradients_are_those_of_the_formula(count, transposed):
    arrays = inputs(count)
    terms = 71, 33, count, count
    for found, exact, number in zip(
        through_the_door(*arrays, transposed), expected(*arrays), terms, strict=True
    ):
        assert_close(found, exact, number, scale=np.abs(exact).max() + 40 * number, unit=SINGLE)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_rounds_the_factors_and_neither_the_bias_nor_its_gradient():
    arrays = inputs(300)
    with computing_in("bfloat16"):
        mapped, _, d_weight, d_bias = through_the_door(*arrays, False)
    exact, _, d_exact, d_bias_exact = expected(*arrays)
    assert_close(d_bias, d_bias_exact, 300, unit=SINGLE)
    for found, right, factors in ((mapped, exact, 70), (d_weight, d_exact, 300)):
        error = np.abs(found - right)
        assert error.max() <= 2.1 * HALF * factors * 4 * (1 if found is mapped else 33)
    rows, weight, bias = arrays
    without = paddle.to_tensor(np.zeros_like(rows))
    with computing_in("bfloat16"):
        of_zeros = product(without, paddle.to_tensor(weight), bias=paddle.to_tensor(bias))
    np.testing.assert_array_equal(of_zeros.numpy(), np.tile(bias, (300, 1)))


def test_a_layer_maps_the_last_axis_of_any_shape_and_of_no_rows():
    paddle.seed(0)
    layer, rows = Linear(6, 4), paddle.randn([2, 3, 6])
    assert layer(rows).shape == [2, 3, 4]
    assert_close(layer(rows)[1, 2].numpy(), layer(rows[1, 2:])[0].numpy(), 2 * 7)
    assert layer(rows[:0]).shape == [0, 3, 4]
    without = Linear(6, 4, bias_attr=False)
    without.weight.set_value(layer.weight)
    assert_close((layer(rows) - layer.bias).numpy(), without(rows).numpy(), 2 * 8)


def test_what_is_frozen_gets_no_gradient():
    rows, weight, bias = map(paddle.to_tensor, inputs(5))
    weight.stop_gradient = False
    product(rows, weight, bias=bias).sum().backward()
    assert rows.grad is None and bias.grad is None
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize("count", [1, 300])
def test_a_column_times_a_vector_is_added_with_its_gradients(count):
    rows, weight, bias = inputs(count)
    column, vector = np.linspace(-1, 1, count, dtype=np.float32)[:, None], np.flip(bias).copy()
    tensors = [paddle.to_tensor(x, stop_gradient=False) for x in (rows, weight, bias, column, vector)]
    mapped = product(tensors[0], tensors[1], bias=tensors[2], outer=(tensors[3], tensors[4]))
    (mapped * paddle.arange(1, 34, dtype="float32")).sum().backward()
    exact, *d_exact = expected(rows, weight, bias)
    assert_close(mapped.numpy(), exact + column * vector, 73, scale=120.0, unit=SINGLE)
    d_mapped = np.tile(np.arange(1.0, 34), (count, 1))
    d_exact += [d_mapped @ vector[:, None].astype(np.float64), (column.astype(np.float64).T @ d_mapped)[0]]
    for tensor, right, terms in zip(tensors, d_exact, (33, count, count, 33, count), strict=True):
        assert_close(tensor.grad.numpy(), right, terms, scale=np.abs(right).max() + 40 * terms, unit=SINGLE)
