import math

import numpy as np
import pytest

from models import error_function
from models.error_function import erf

POINTS = [0.0, -0.0, 1e-30, -1e-20, 1e-4, -0.3, 0.5, 1, -2, 3.7, -6, 40, -1e10]


@pytest.mark.parametrize("has_mkl", [True, False], ids=["as here", "without MKL"])
def test_erf_is_that_of_the_standard_library(monkeypatch, has_mkl):
    if not has_mkl:
        monkeypatch.setattr(error_function, "_mkl", lambda: None)
    x = np.concatenate([np.linspace(-5, 5, 5001), POINTS]).astype(np.float32)
    expected = [math.erf(value) for value in x.tolist()]
    erf(x)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    assert x.dtype == np.float32


def test_erf_of_double_precision():
    x = np.linspace(-5, 5, 101)
    expected = [math.erf(value) for value in x]
    erf(x)
    np.testing.assert_allclose(x, expected, atol=2e-7)
