import numpy as np
import paddle
import pytest

from models.encoders import l2norm
from tests.closeness import SINGLE, assert_close

pytestmark = pytest.mark.usefixtures("way")

SMALLEST = 1e-8


@pytest.mark.parametrize("count", [1, 40])
def test_columns_and_their_gradient_are_those_of_the_formula(count):
    random = np.random.default_rng(count)
    array, weight = random.standard_normal((2, count, 9, 600)).astype(np.float32)
    array[0, :, 3] = 0  # a dimension that no region has
    x = paddle.to_tensor(array, stop_gradient=False)
    units = l2norm(x, axis=1)
    (units * paddle.to_tensor(weight)).sum().backward()

    exact = array.astype(np.float64)
    norm = np.maximum(np.sqrt((exact**2).sum(axis=1, keepdims=True)), SMALLEST)
    expected = exact / norm
    along = (expected * weight).sum(axis=1, keepdims=True) * (norm > SMALLEST)
    assert_close(units.numpy(), expected, 9 + 3, unit=SINGLE)
    assert_close(
        x.grad.numpy(), (weight - expected * along) / norm, 4 * 9 + 8, scale=4 * 9 / norm, unit=SINGLE
    )
