import numpy as np
import paddle

from solvers.bert_adamw import BertAdamW
from tests.closeness import assert_close

BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-3, 0.1  # an epsilon large enough that its place matters


def test_steps_by_loops():
    random = np.random.default_rng(0)
    start = random.standard_normal((2, 3)).astype(np.float32)
    slopes = random.normal(0, 1e-3, (4, 2, 3)).astype(np.float32)
    weight = paddle.create_parameter([2, 3], "float32")
    weight.set_value(start)
    optimizer = BertAdamW(1.0, BETA1, BETA2, EPSILON, [weight], DECAY)
    expected = start.astype(float)
    first, second = np.zeros((2, 3)), np.zeros((2, 3))
    for step, slope in enumerate(slopes, start=1):
        rate = 0.01 / step
        optimizer.set_lr(rate)
        (weight * paddle.to_tensor(slope)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        first = BETA1 * first + (1 - BETA1) * slope
        second = BETA2 * second + (1 - BETA2) * slope.astype(float) ** 2
        expected *= 1 - rate * DECAY
        correction = np.sqrt(1 - BETA2**step) / (1 - BETA1**step)
        expected -= rate * correction * first / (np.sqrt(second) + EPSILON)
        assert_close(weight.numpy(), expected, 20 * step)
