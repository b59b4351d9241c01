"""Products on all threads equal NumPy's, whatever the memory looks like, by every library that is here."""

import math

import numpy as np
import pytest

from models.kernels import choice, onednn
from models.kernels.products import (
    PackedMatrices,
    left_factor,
    multiply,
    multiply_transposed,
    right_factor,
)
from tests.closeness import assert_close
from tests.models.kernels.test_onednn_products import as_kind


@pytest.fixture(params=["mkl", "onednn", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param not in choice.available():
        pytest.skip(f"this build of Paddle does not bring {request.param}")
    monkeypatch.setattr(choice, "_chosen", choice.Choice(request.param, request.param, "set by a test"))
    return request.param


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("OMP_NUM_THREADS", str(request.param))
    return request.param


def random(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


LAYOUTS = {
    "rows in one piece": lambda x: np.ascontiguousarray(x),
    "columns in one piece": lambda x: np.asfortranarray(x),
    "part of wider rows": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "rows in reverse": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "double precision": lambda x: x.astype(np.float64),
}


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_a_product_does_not_depend_on_the_memory_of_its_factors(library, threads, first, second):
    a, b = random(37, 19), random(19, 23)
    product = multiply(LAYOUTS[first](a), LAYOUTS[second](b))
    assert_close(product, a.astype(np.float64) @ b, a.shape[1], np.abs(a) @ np.abs(b))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 1), (5, 1, 9), (64, 70, 3), (2, 300, 130)])
def test_a_product_has_any_shape_is_scaled_and_added_to_what_is_there(library, threads, shape):
    rows, depth, columns = shape
    a, b, there = random(rows, depth), random(depth, columns), random(rows, columns)
    out = there.copy()
    assert multiply(a, b, out=out, scale=0.5, add=True) is out
    scale = np.abs(there) + 0.5 * np.abs(a) @ np.abs(b)
    assert_close(out, there + 0.5 * (a.astype(np.float64) @ b), depth + 2, scale)


def test_a_product_is_written_into_a_part_of_an_array_and_nowhere_else(library, threads):
    a, b = random(8, 6), random(6, 10)
    room = np.full((10, 14), 7, np.float32)
    multiply(a, b, out=room[1:9, 2:12])
    assert_close(room[1:9, 2:12], a.astype(np.float64) @ b, a.shape[1], np.abs(a) @ np.abs(b))
    room[1:9, 2:12] = 7
    assert (room == 7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 50, 130])
def test_packed_matrices_multiply_as_numpy_does(library, threads, rows, transposed, dtype):
    stored = random(3, 31, 18, dtype=dtype)
    matrices = stored.transpose(0, 2, 1) if transposed else stored
    packed, scales = PackedMatrices(matrices, (0.5, 1.0, 2.0)), np.array([0.5, 1, 2])[:, None, None]
    x = random(rows, matrices.shape[1], dtype=dtype)
    expected = np.matmul(x.astype(np.float64), matrices * scales)  # [3,rows,N]
    for multiplied in (packed.multiply(x), packed.multiply_on_one_thread(x)):
        assert multiplied.dtype == dtype
        assert_close(multiplied, expected, x.shape[1], np.matmul(np.abs(x), np.abs(matrices * scales)))
    xs = random(3, rows, matrices.shape[1], dtype=dtype)
    summed = sum(each.astype(np.float64) @ matrix for each, matrix in zip(xs, matrices * scales, strict=True))
    scale = np.matmul(np.abs(xs), np.abs(matrices * scales)).sum(axis=0)
    assert_close(packed.sum_products(xs), summed, 3 * x.shape[1], scale)


def test_a_row_has_the_same_product_in_every_run(library, threads):
    """A resumed training repeats the undisturbed one; so must a product, wherever its memory is."""
    packed, room = PackedMatrices(random(2, 130, 70)), np.empty(40 * 130 + 64, np.float32)
    x = random(40, 130)
    first = packed.multiply(x)
    for offset in (0, 1, 3, 17):
        moved = room[offset : offset + x.size].reshape(x.shape)
        moved[:] = x
        np.testing.assert_array_equal(packed.multiply(moved), first)
        np.testing.assert_array_equal(multiply(moved.T, moved), multiply(x.T, x))


@pytest.fixture(params=["in tiles", "without tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let factors lie as a processor with AMX multiplies them quickest, or as one without."""
    monkeypatch.setattr(onednn, "has_tiles", lambda: request.param == "in tiles")


@pytest.mark.usefixtures("bfloat16", "tiles")
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_a_product_of_bfloat16_rounds_its_factors_alone(threads, first, second):
    a, b, there = random(37, 19), random(19, 23), random(37, 23)
    kinds = [np.uint16] * 2
    if not {first, second}.isdisjoint({"double precision", "every second column", "rows in reverse"}):
        kinds = [np.float32] * 2  # oneDNN cannot read one of them, so both stay as they are
    (_, exact_a), (_, exact_b) = (as_kind(x, kind) for x, kind in zip((a, b), kinds, strict=True))
    a, b = LAYOUTS[first](a), LAYOUTS[second](b)
    size = np.abs(exact_a) @ np.abs(exact_b)
    assert_close(multiply(a, b, bfloat16=True), exact_a @ exact_b, 19, size)
    found = multiply(a, b, out=there.copy(), scale=0.5, add=True, bfloat16=True)
    assert_close(found, there + 0.5 * (exact_a @ exact_b), 19 + 2, size + np.abs(there))


@pytest.mark.usefixtures("bfloat16", "tiles")
@pytest.mark.parametrize("depth", [1, 19, 200, 300])  # some of which are no multiple of what is compiled for
@pytest.mark.parametrize("layout", ["rows in one piece", "columns in one piece"])
def test_factors_that_are_rounded_before_make_the_products_that_multiply_makes(threads, layout, depth):
    a, b = random(37, depth), random(depth, 23)
    left, right = left_factor(LAYOUTS[layout](a), True), right_factor(LAYOUTS[layout](b), True)
    assert left.dtype == right.dtype == np.uint16
    np.testing.assert_array_equal(
        multiply(left, right), multiply(LAYOUTS[layout](a), LAYOUTS[layout](b), bfloat16=True)
    )


@pytest.mark.usefixtures("bfloat16", "tiles")
@pytest.mark.parametrize("depth", [1, 64, 100, 300])
@pytest.mark.parametrize("lowered", [True, False])
def test_gradients_of_weights_are_products_of_transposed_factors(threads, lowered, depth):
    lefts, right, wider = random(3, depth, 37), random(depth, 23), random(3, 37, 30)
    kind = np.uint16 if lowered else np.float32
    (_, exact), (_, exact_right) = as_kind(lefts, kind), as_kind(right, kind)
    outs = wider[:, :, :23]  # as of several weights in one array
    multiply_transposed(lefts, right, outs, lowered)
    turned = exact.transpose(0, 2, 1)
    assert_close(outs, turned @ exact_right, depth, np.abs(turned) @ np.abs(exact_right))
    np.testing.assert_array_equal(wider[:, :, 23:], random(3, 37, 30)[:, :, 23:])


def test_factors_stay_as_they_are_where_nothing_is_rounded():
    a = random(3, 4)
    assert left_factor(a, False) is a and right_factor(a, False) is a


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_packed_matrices_of_bfloat16_round_their_factors_alone(threads, rows):
    matrices, xs = random(3, 31, 18), random(3, rows, 31)
    packed = PackedMatrices(matrices, (0.5, 1.0, 2.0), bfloat16=True)  # powers of two: no further rounding
    scaled = as_kind(matrices * np.array([0.5, 1, 2], np.float32)[:, None, None], np.uint16)[1]
    exact = as_kind(xs, np.uint16)[1]
    size = np.matmul(np.abs(exact), np.abs(scaled))
    assert_close(
        packed.multiply(xs[0]), np.matmul(exact[0], scaled), 31, np.matmul(np.abs(exact[0]), np.abs(scaled))
    )
    assert_close(packed.sum_products(xs), np.matmul(exact, scaled).sum(axis=0), 93, size.sum(axis=0))


def test_blocks_of_rows_are_even_but_where_each_number_of_rows_is_compiled_for(library):
    packed = PackedMatrices(random(1, 5, 6))
    assert packed.rows_together == (64 if library == "onednn" else 8)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("kind", [np.float32, np.uint16])
@pytest.mark.parametrize("rows", [1, 50, 200])
def test_gelu_is_fused_with_the_product_and_the_bias(monkeypatch, threads, kind, rows):
    if "onednn" not in choice.available():
        pytest.skip("this build of Paddle does not bring onednn")
    monkeypatch.setattr(choice, "_chosen", choice.Choice("onednn", "onednn", "set by a test"))
    x, matrix, bias = random(rows, 31), random(31, 18), random(18)
    packed = PackedMatrices(matrix[None], bfloat16=kind is np.uint16)
    assert packed.fuses_gelu
    (_, exact_x), (_, exact_matrix) = as_kind(x, kind), as_kind(matrix, kind)
    inner = exact_x @ exact_matrix + bias
    expected = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
    found = packed.gelu_on_one_thread(x, bias)
    # The slope of gelu is at most 1.13, and the error of its error function 4e-7.
    size = np.abs(exact_x) @ np.abs(exact_matrix) + np.abs(bias)
    bound = 1.13 * (31 + 1) * np.finfo(np.float32).eps / 2 * size + 4e-7 * np.abs(inner)
    assert (np.abs(found - expected) <= bound).all()
