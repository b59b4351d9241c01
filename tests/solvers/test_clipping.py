"""Gradients are scaled together, so that their norm is at most the bound."""

import math

import numpy as np
import paddle
import pytest

from solvers.clipping import ClipByGlobalNorm
from tests.closeness import SINGLE, assert_close


@pytest.fixture
def gradients() -> list[paddle.Tensor]:
    random = np.random.default_rng(0)
    return [
        paddle.to_tensor(random.standard_normal(shape, np.float32)) for shape in ((40, 30), (7,), (3, 2, 5))
    ]


def clipped(gradients: list[paddle.Tensor], bound: float) -> list[np.ndarray]:
    parameters = [paddle.create_parameter(each.shape, "float32") for each in gradients]
    pairs = ClipByGlobalNorm(bound)([*zip(parameters, gradients, strict=True), (parameters[0], None)])
    return [gradient.numpy() for _, gradient in pairs if gradient is not None]


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_gradients_over_the_bound_get_its_norm_and_keep_their_direction(
    gradients, device, threads, monkeypatch
):
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    before = [gradient.numpy().copy() for gradient in gradients]
    norm = math.sqrt(sum(float(value) ** 2 for array in before for value in array.reshape(-1)))
    for array, old in zip(clipped(gradients, 2.0), before, strict=True):
        assert_close(
            array, old * (2.0 / norm), 1240, np.abs(old) * (2.0 / norm), unit=SINGLE
        )  # one sum of squares


@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_gradients_within_the_bound_stay_as_they_are_to_the_bit(gradients, device, monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    before = [gradient.numpy().copy() for gradient in gradients]
    for array, old in zip(clipped(gradients, 1000.0), before, strict=True):
        np.testing.assert_array_equal(array, old)
