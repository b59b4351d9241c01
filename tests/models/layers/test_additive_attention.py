import paddle
import pytest
from paddle.nn import functional

from models.layers.additive_attention import additive_attention
from tests.closeness import assert_close, largest

pytestmark = pytest.mark.usefixtures("way")

ROUNDINGS = 2 * (2 + 6 + 3 * 5 + 4)  # there and back: tanh, a product of 6, a softmax of 5, values of 4


def by_paddle(query, keys, values, weight, mask):
    energy = (paddle.tanh(keys + query.unsqueeze(1)) * weight).sum(axis=2)
    return (functional.softmax(energy + mask, axis=1).unsqueeze(2) * values).sum(axis=1)


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
        mask = paddle.zeros([count, 5])
        mask[0, 3:] = -1e4
        context = attend(*inputs, mask)
        (context * paddle.arange(1, 5, dtype="float32")).sum().backward()
        found.append([context.numpy(), *(tensor.grad.numpy() for tensor in inputs)])
    for ours, expected in zip(*found, strict=True):
        summed = count * 5 if ours.ndim == 1 else 0  # the weight's gradient is a sum over all rows and keys
        assert_close(ours, expected, ROUNDINGS + summed, largest(found[1]))


def test_what_is_barred_is_not_seen():
    paddle.seed(0)
    query, keys, values = paddle.randn([2, 3]), paddle.randn([2, 4, 3]), paddle.randn([2, 4, 3])
    mask = paddle.to_tensor([[0.0, -1e4, -1e4, -1e4]] * 2)
    context = additive_attention(query, keys, values, paddle.ones([3]), mask)
    assert_close(context.numpy(), values[:, 0].numpy(), ROUNDINGS)
