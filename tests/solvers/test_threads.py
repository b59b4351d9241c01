"""Parameters that are updated on several threads become what Paddle makes of them on one, bit for bit."""

import numpy as np
import paddle
import pytest
from paddle.optimizer import Adam, AdamW

from solvers import adam_blocks
from solvers.threads import ThreadedAdam, ThreadedAdamW


@pytest.fixture(params=["by Paddle", "in blocks"])
def way(request, monkeypatch):
    """Let Paddle update, or NumPy where that gives the same, on each processor that can."""
    if request.param == "in blocks" and not adam_blocks.is_faster():
        pytest.skip("Paddle's Adam for AVX-512 rounds otherwise")
    monkeypatch.setattr(adam_blocks, "is_faster", lambda: request.param == "in blocks")


def weights_after(optimizer_class, steps=4):
    random = np.random.default_rng(0)
    parameters = [paddle.create_parameter([size, 5], "float32") for size in (30000, 2, 40, 7, 1)]
    for parameter in parameters:
        parameter.set_value(random.standard_normal(parameter.shape, dtype=np.float32))
    parameters[2].optimize_attr["learning_rate"] = 0.1
    optimizer = optimizer_class(0.01, parameters=parameters)
    for step in range(steps):
        for parameter in parameters[: 4 if step == 1 else 5]:  # once, one has no gradient
            parameter.grad = paddle.to_tensor(random.standard_normal(parameter.shape, dtype=np.float32))
        optimizer.set_lr(0.01 / (1 + step))
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    return [parameter.numpy() for parameter in parameters]


@pytest.mark.parametrize("threads", ["1", "3", "8"])
@pytest.mark.parametrize(("theirs", "ours"), [(Adam, ThreadedAdam), (AdamW, ThreadedAdamW)])
def test_the_weights_are_those_of_paddles_optimizer(monkeypatch, way, theirs, ours, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    for found, expected in zip(weights_after(ours), weights_after(theirs), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_long_run_of_rare_and_tiny_gradients_is_that_of_paddles_optimizer(way):
    weights = []
    for optimizer_class in (AdamW, ThreadedAdamW):
        random = np.random.default_rng(1)
        parameter = paddle.create_parameter([500], "float32")
        parameter.set_value(random.standard_normal(500, dtype=np.float32))
        optimizer = optimizer_class(0.01, parameters=[parameter], weight_decay=0.1)
        for _ in range(50):
            gradient = random.standard_normal(500) * 10.0 ** random.uniform(-30, 10, 500)
            parameter.grad = paddle.to_tensor(
                np.where(random.random(500) < 0.1, gradient, 0).astype(np.float32)
            )
            optimizer.step()
        weights.append(parameter.numpy())
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("broken", [(Adam, "_append_optimize_op"), (adam_blocks.Update, "run")])
def test_an_error_in_an_update_is_raised(monkeypatch, broken):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(adam_blocks, "is_faster", lambda: broken[0] is adam_blocks.Update)
    monkeypatch.setattr(*broken, fail)
    with pytest.raises(MemoryError):
        weights_after(ThreadedAdam)
