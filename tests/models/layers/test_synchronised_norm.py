"""Statistics of all processes, here of one: the layer does as the one whose place it takes."""

import numpy as np
import paddle
import pytest

from models.layers.batch_norm import BatchNorm
from models.layers.synchronised_norm import SynchronisedBatchNorm
from tests.closeness import assert_close, largest

COUNT = 40
ROUNDINGS = 10 + 3 * COUNT  # of a row's way, and of the sums over the rows, which are in 32 bits off the CPU


@pytest.mark.usefixtures("way")
def test_one_process_normalises_as_the_layer_itself(monkeypatch):
    monkeypatch.setattr("models.layers.synchronised_norm.dist.all_reduce", lambda tensor: None)
    paddle.seed(0)
    rows, slope = paddle.randn([COUNT, 3]) * 2 + 1, paddle.randn([COUNT, 3])
    rows.stop_gradient = False
    found = []
    for take_place in (SynchronisedBatchNorm, lambda norm: norm):
        paddle.seed(1)
        norm = BatchNorm(3)
        norm.weight.set_value(paddle.rand([3]) + 0.5)
        layer = take_place(norm)
        rows.clear_gradient(False)
        normalised = layer(rows)
        (normalised * slope).sum().backward()
        gradients = [tensor.grad.numpy().copy() for tensor in (rows, layer.weight, layer.bias)]
        found.append((normalised.numpy(), layer._mean.numpy(), layer._variance.numpy(), gradients))
    (*ours, gradients), (*expected, expected_gradients) = found
    for one, other in zip(ours, expected, strict=True):
        assert_close(one, other, ROUNDINGS)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert_close(one, other, ROUNDINGS, largest(expected_gradients))
    layer.eval()
    assert not np.array_equal(layer(rows).numpy(), normalised.numpy()), "evaluation has its own statistics"
