import math
from types import SimpleNamespace

import numpy as np
import pytest

from models.kernels import mkl
from models.kernels.mkl import erf, exp, multiply_each, multiply_on_one_thread, multiply_pairs, tanh
from tests.closeness import assert_close

POINTS = [0.0, -0.0, 1e-30, -1e-20, 1e-4, -0.3, 0.5, 1, -2, 3.7, -6, 40, -1e10]
GROUPS, ROWS, DEPTH, COLUMNS = 3, 4, 5, 6


LOAD = mkl.library.__wrapped__  # not what an earlier call found
pytestmark = pytest.mark.usefixtures("with_and_without_mkl")


def test_erf_is_that_of_the_standard_library():
    x = np.concatenate([np.linspace(-5, 5, 5001), POINTS]).astype(np.float32)
    expected = [math.erf(value) for value in x.tolist()]
    erf(x)
    # MKL's is right within a unit in the last place (two roundings); the formula's 1.5e-7 are three of them,
    # and its polynomial of up to 1.5 and the exponential take 16.
    by_formula = mkl.library() is None
    assert_close(x, expected, terms=19 if by_formula else 2, scale=1.5 if by_formula else 1.0)
    assert x.dtype == np.float32


def test_erf_of_double_precision():
    x = np.linspace(-5, 5, 101)
    expected = [math.erf(value) for value in x]
    erf(x)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1.5e-7)  # the formula's own error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("function", "exact"), [(tanh, np.tanh), (exp, np.exp)])
def test_tanh_and_exp_are_right_within_two_units_in_the_last_place(function, exact, dtype):
    x = np.concatenate([np.linspace(-20, 20, 5001), np.geomspace(1e-30, 80, 101), POINTS[:-2]]).astype(dtype)
    expected = exact(x.astype(np.float64))
    function(x)
    assert_close(x, expected, terms=4, scale=np.abs(expected))  # a unit is up to two roundings
    assert x.dtype == dtype


def test_tanh_and_exp_of_what_is_no_number_or_too_large():
    limits = np.array([-np.inf, np.inf, np.nan, -200, 200], np.float32)
    of_tanh, of_exp = limits.copy(), limits.copy()
    tanh(of_tanh)
    exp(of_exp)
    np.testing.assert_array_equal(of_tanh, np.float32([-1, 1, np.nan, -1, 1]))
    np.testing.assert_array_equal(of_exp, np.float32([0, np.inf, np.nan, 0, np.inf]))


def test_tanh_and_exp_of_a_number_do_not_depend_on_its_place():
    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    for function in (tanh, exp):
        whole = x.copy()
        function(whole)
        for start, stop in ((1, 2), (3, 20), (7, 300)):
            part = x.copy()[start:stop]
            function(part)
            np.testing.assert_array_equal(part, whole[start:stop])


def test_a_build_of_paddle_without_mkl_has_no_library(monkeypatch, tmp_path):
    paddle = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    for found in (paddle, None):
        monkeypatch.setattr(mkl.importlib.util, "find_spec", lambda name, found=found: found)
        assert LOAD() is None


def by_einsum(subscripts, a, b):
    """Return the products in double precision, and those of the absolute values: what is added up."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.einsum(subscripts, a, b), np.einsum(subscripts, np.abs(a), np.abs(b))


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
    a, b = a.astype(dtype), b.astype(dtype)
    expected, scale = by_einsum("gmk,gkn->gmn", a, b)
    a, b = stored_as(a, a_layout), stored_as(b, b_layout)
    assert_close(multiply_each(a, b), expected, DEPTH, scale)
    for out_layout in ("rows", "transposed", "heads", "gaps"):
        out = stored_as(np.zeros(expected.shape, dtype), out_layout)
        assert multiply_each(a, b, out) is out
        assert_close(out, expected, DEPTH, scale)
    assert_close(multiply_on_one_thread(a[0], b[0]), expected[0], DEPTH, scale[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_is_scaled_and_added(dtype):
    random = np.random.default_rng(0)
    a, b, before = (random.standard_normal(shape).astype(dtype) for shape in ((4, 5), (5, 6), (4, 6)))
    product, scale = by_einsum("mk,kn->mn", a, b)
    for add in (False, True):
        out = before.copy()
        assert multiply_on_one_thread(a, b, out, 0.5, add) is out
        expected, size = 0.5 * product + add * before, 0.5 * scale + add * np.abs(before)
        assert_close(out, expected, DEPTH + 2, size)


def test_products_of_several_sequences_head_by_head():
    random = np.random.default_rng(0)
    rows = random.standard_normal((2, DEPTH, GROUPS, COLUMNS)).astype(np.float32)
    a, b = rows.transpose(0, 2, 3, 1), rows.transpose(0, 2, 1, 3)  # [2,G,N,K], [2,G,K,N]
    expected, scale = by_einsum("sgmk,sgkn->sgmn", a, b)
    out = np.zeros((2, COLUMNS, GROUPS, COLUMNS), np.float32).transpose(0, 2, 1, 3)
    multiply_each(a, b, out)
    assert_close(out, expected, DEPTH, scale)


@pytest.mark.parametrize("depth", [1, 7, 300])
@pytest.mark.parametrize("lies", ["in one piece", "in a wider array", "by columns"])
def test_pairs_of_vectors_are_multiplied_where_they_lie(monkeypatch, lies, depth):
    monkeypatch.setattr(mkl, "_COPIED", 4 * 4 * depth)  # without MKL, four pairs at a time
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((count, depth)).astype(np.float32) for count in (20, 30))
    rows, others = random.integers(20, size=50), random.integers(30, size=50)
    exact = [x[which].astype(np.float64) for x, which in ((a, rows), (b, others))]
    if lies == "in a wider array":
        a, b = (np.concatenate([x, x], axis=1)[:, :depth] for x in (a, b))
    elif lies == "by columns":
        a = np.asfortranarray(a)
    found = multiply_pairs(a, rows, b, others)
    assert found.dtype == np.float32
    assert_close(found, (exact[0] * exact[1]).sum(axis=1), depth, np.abs(exact[0] * exact[1]).sum(axis=1))
    assert multiply_pairs(a, rows[:0], b, others[:0]).shape == (0,)
