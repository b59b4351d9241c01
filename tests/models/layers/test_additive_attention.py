import numpy as np
import paddle
import pytest
from paddle.nn import functional

from models.layers.additive_attention import additive_attention


def by_paddle(query, keys, values, weight, barred):
    energy = (paddle.tanh(keys + query.unsqueeze(1)) * weight).sum(axis=2)
    return (functional.softmax(energy + barred, axis=1).unsqueeze(2) * values).sum(axis=1)


@pytest.mark.parametrize("count", [1, 7, 700])  # one block of rows, and several
def test_context_and_gradients_are_those_of_the_formula(count):
    paddle.seed(0)
    shapes = [count, 6], [count, 5, 6], [count, 5, 4], [6]
    found = []
    for attend in (additive_attention, by_paddle):
        paddle.seed(0)
        inputs = [paddle.randn(shape) for shape in shapes]
        for tensor in inputs:
            tensor.stop_gradient = False
        barred = paddle.zeros([count, 5])
        barred[0, 3:] = -1e4
        context = attend(*inputs, barred)
        (context * paddle.arange(1, 5, dtype="float32")).sum().backward()
        found.append([context.numpy(), *(tensor.grad.numpy() for tensor in inputs)])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_what_is_barred_is_not_seen():
    paddle.seed(0)
    query, keys, values = paddle.randn([2, 3]), paddle.randn([2, 4, 3]), paddle.randn([2, 4, 3])
    barred = paddle.to_tensor([[0.0, -1e4, -1e4, -1e4]] * 2)
    context = additive_attention(query, keys, values, paddle.ones([3]), barred)
    np.testing.assert_allclose(context.numpy(), values[:, 0].numpy(), atol=1e-6)
