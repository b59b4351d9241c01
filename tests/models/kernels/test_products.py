"""Products on all threads equal NumPy's, whatever the memory looks like, with MKL and without."""

import numpy as np
import pytest

from models.kernels import mkl
from models.kernels.products import PackedMatrices, multiply
from tests.closeness import assert_close


@pytest.fixture(params=["mkl", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(mkl, "library", lambda: None)
    elif mkl.library() is None:
        pytest.skip("this build of Paddle brings no MKL")
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
@pytest.mark.parametrize("rows", [0, 1, 2, 50])
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
