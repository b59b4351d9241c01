import math

import numpy as np
import pytest

from models.kernels import mkl
from models.kernels.mkl import erf, multiply_each, multiply_on_one_thread

POINTS = [0.0, -0.0, 1e-30, -1e-20, 1e-4, -0.3, 0.5, 1, -2, 3.7, -6, 40, -1e10]
GROUPS, ROWS, DEPTH, COLUMNS = 3, 4, 5, 6


@pytest.fixture(params=[True, False], ids=["as here", "without MKL"], autouse=True)
def with_and_without_mkl(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(mkl, "library", lambda: None)


def test_erf_is_that_of_the_standard_library():
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


def stored_as(matrices, layout):
    """Return the matrices [G,M,N] in another layout: theirs, columns in one piece, or as heads of rows."""
    if layout == "transposed":
        return np.ascontiguousarray(matrices.transpose(0, 2, 1)).transpose(0, 2, 1)
    if layout == "heads":
        return np.ascontiguousarray(matrices.transpose(1, 0, 2)).transpose(1, 0, 2)
    if layout == "gaps":
        wide = np.zeros((*matrices.shape, 2), matrices.dtype)[..., 0]
        wide[...] = matrices
        return wide
    return matrices


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("a_layout", ["rows", "transposed", "heads", "gaps"])
@pytest.mark.parametrize("b_layout", ["rows", "transposed", "heads", "gaps"])
@pytest.mark.parametrize("rows", [ROWS, 1])
def test_products_of_matrices_in_any_layout(a_layout, b_layout, dtype, rows):
    random = np.random.default_rng(0)
    a, b = random.standard_normal((GROUPS, rows, DEPTH)), random.standard_normal((GROUPS, DEPTH, COLUMNS))
    expected = np.einsum("gmk,gkn->gmn", a, b)
    a, b = stored_as(a.astype(dtype), a_layout), stored_as(b.astype(dtype), b_layout)
    np.testing.assert_allclose(multiply_each(a, b), expected, rtol=1e-4, atol=1e-5)
    for out_layout in ("rows", "transposed", "heads", "gaps"):
        out = stored_as(np.zeros(expected.shape, dtype), out_layout)
        assert multiply_each(a, b, out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(multiply_on_one_thread(a[0], b[0]), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_is_scaled_and_added(dtype):
    random = np.random.default_rng(0)
    a, b, before = (random.standard_normal(shape).astype(dtype) for shape in ((4, 5), (5, 6), (4, 6)))
    for add in (False, True):
        out = before.copy()
        assert multiply_on_one_thread(a, b, out, 0.5, add) is out
        np.testing.assert_allclose(out, 0.5 * a @ b + add * before, rtol=1e-4, atol=1e-5)


def test_products_of_several_sequences_head_by_head():
    random = np.random.default_rng(0)
    rows = random.standard_normal((2, DEPTH, GROUPS, COLUMNS)).astype(np.float32)
    a, b = rows.transpose(0, 2, 3, 1), rows.transpose(0, 2, 1, 3)  # [2,G,N,K], [2,G,K,N]
    expected = np.einsum("sgmk,sgkn->sgmn", a, b)
    out = np.zeros((2, COLUMNS, GROUPS, COLUMNS), np.float32).transpose(0, 2, 1, 3)
    multiply_each(a, b, out)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
