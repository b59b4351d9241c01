"""Products of matrices in memory, each on all threads: float32 by Paddle's own MKL, the rest by NumPy.

Paddle's wheels for Linux bring Intel's MKL, and two things of it count here. It can lay out a matrix for its
kernels once and then multiply it many times: with the few rows of a late step of a recurrent layer that is
two to five times as fast as a product that lays it out again. And it works on the thread that calls it,
where the threads of NumPy's library go on waiting for more on the cores that `row_blocks` needs next.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from models.row_blocks import equal_parts, for_each

# Constants of the C interface to BLAS, and of MKL's products with a matrix that was laid out before.
_BY_ROWS, _AS_IT_IS, _TRANSPOSED, _LAID_OUT, _SECOND = 101, 111, 112, 151, 162
_LINE = 64  # bytes of a line of the cache


def multiply(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Return `scale` times `a` [M,K] times `b` [K,N]; write it to `out` [M,N], or `add` it there."""
    if out is None:
        out = np.empty((len(a), b.shape[1]), np.result_type(a, b))
    if not (_fits_mkl(a, b, out) and out.strides[1] == out.itemsize):
        out[:] = scale * np.matmul(a, b) + (out if add else 0)
        return out
    if len(out) >= out.shape[1]:
        parts = [(a[rows], b, out[rows]) for rows in equal_parts(len(out))]
    else:
        parts = [(a, b[:, columns], out[:, columns]) for columns in equal_parts(out.shape[1])]
    for_each(lambda part: _multiply(*part, scale, add), parts)
    return out


class RepeatedFactors:
    """Matrices [G,K,N], laid out once, that many others are multiplied with.

    `scales`: numbers [G] that go into the products; None: 1 for all.
    """

    def __init__(self, matrices: np.ndarray, scales: Sequence[float] | None = None) -> None:
        self._matrices, self._columns, self._laid_out = matrices, equal_parts(matrices.shape[2]), []
        scales = [1.0] * len(matrices) if scales is None else scales
        if _fits_mkl(*matrices):
            self._laid_out = [
                [_LaidOut(matrix[:, columns], scale) for columns in self._columns]
                for matrix, scale in zip(matrices, scales, strict=True)
            ]
            for_each(_LaidOut.fill, [part for parts in self._laid_out for part in parts])
        else:
            self._matrices = matrices * np.array(scales, matrices.dtype)[:, None, None]

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """Return `x` [M,K], rows in one piece, times each matrix: [G,M,N]."""
        if not self._laid_out:
            return np.matmul(x, self._matrices)
        out = self._room(len(self._matrices), len(x), x.dtype)
        tasks = [(g, part) for g in range(len(out)) for part in range(len(self._columns))]
        for_each(lambda task: self._multiply_part(x, *task, out), tasks)
        return out

    def multiply_here(self, x: np.ndarray) -> np.ndarray:
        """Do as `multiply`, on the calling thread alone."""
        if not self._laid_out:
            return np.matmul(x, self._matrices)
        out = self._room(len(self._matrices), len(x), x.dtype)
        for g in range(len(out)):
            for part in range(len(self._columns)):
                self._multiply_part(x, g, part, out)
        return out

    def sum_products(self, xs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the sum [M,N] of the products of G `xs` [M,K], rows in one piece, with a matrix each."""
        if not self._laid_out:
            return sum(map(np.matmul, xs, self._matrices))
        out = self._room(1, len(xs[0]), xs[0].dtype)[0]
        for_each(lambda part: self._sum_part(xs, part, out), range(len(self._columns)))
        return out

    def _room(self, count: int, rows: int, dtype: np.dtype) -> np.ndarray:
        return np.empty((count, rows, self._matrices.shape[2]), dtype)

    def _multiply_part(self, x: np.ndarray, g: int, part: int, out: np.ndarray) -> None:
        self._laid_out[g][part].multiply(x, out[g][:, self._columns[part]], add=False)

    def _sum_part(self, xs: Sequence[np.ndarray], part: int, out: np.ndarray) -> None:
        for g, x in enumerate(xs):
            self._laid_out[g][part].multiply(x, out[:, self._columns[part]], add=g > 0)


class _LaidOut:
    """A matrix [K,N] times a number in MKL's layout, once `fill` was called."""

    def __init__(self, matrix: np.ndarray, scale: float) -> None:
        self._matrix, self._scale = matrix, scale
        size = _mkl().cblas_sgemm_pack_get_size(_SECOND, 1, matrix.shape[1], len(matrix))
        self._memory = np.empty(size + _LINE, np.uint8)
        self._start = -(-self._memory.ctypes.data // _LINE) * _LINE

    def fill(self) -> None:
        matrix, (depth, width), (order, leading) = self._matrix, self._matrix.shape, _layout(self._matrix)
        if order == _TRANSPOSED:
            # Its rows are read side by side; a power of two apart, they would all want the same cache lines.
            matrix = np.empty((width, depth + _LINE // matrix.itemsize), matrix.dtype)[:, :depth]
            matrix[:] = self._matrix.T
            leading = matrix.strides[0] // matrix.itemsize
        _on_this_thread(
            _mkl().cblas_sgemm_pack,
            *(_BY_ROWS, _SECOND, order, 1, width, depth, self._scale),
            *(matrix.ctypes.data, leading, self._start),
        )

    def multiply(self, x: np.ndarray, out: np.ndarray, add: bool) -> None:
        depth, width = self._matrix.shape
        _on_this_thread(
            _mkl().cblas_sgemm_compute,
            *(_BY_ROWS, _AS_IT_IS, _LAID_OUT, len(x), width, depth, x.ctypes.data, _layout(x)[1]),
            *(self._start, width, float(add), out.ctypes.data, _layout(out)[1]),
        )


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, scale: float, add: bool) -> None:
    (a_order, a_leading), (b_order, b_leading) = _layout(a), _layout(b)
    _on_this_thread(
        _mkl().cblas_sgemm,
        *(_BY_ROWS, a_order, b_order, *out.shape, a.shape[1], scale, a.ctypes.data, a_leading),
        *(b.ctypes.data, b_leading, float(add), out.ctypes.data, _layout(out)[1]),
    )


def _on_this_thread(function: ctypes._CFuncPtr, *arguments: float) -> None:
    """Call a function of MKL that would otherwise start threads of its own."""
    before = _set_threads()(1)
    function(*arguments)
    _set_threads()(before)


def _fits_mkl(*matrices: np.ndarray) -> bool:
    """Whether MKL can work on the matrices as they are: float32, with rows or columns in one piece."""
    return _mkl() is not None and all(
        x.dtype == np.float32 and x.size and x.itemsize in x.strides and min(x.strides) > 0 for x in matrices
    )


def _layout(matrix: np.ndarray) -> tuple[int, int]:
    """Return how MKL is to read a matrix, and the numbers from the start of a row (or column) to the next."""
    if matrix.strides[1] == matrix.itemsize:
        return _AS_IT_IS, max(matrix.strides[0] // matrix.itemsize, matrix.shape[1])
    return _TRANSPOSED, max(matrix.strides[1] // matrix.itemsize, len(matrix))


@functools.cache
def _set_threads() -> ctypes._CFuncPtr:
    """Return what sets MKL's threads for the calling thread, without a release of the interpreter."""
    return ctypes.PyDLL(_mkl()._name).MKL_Set_Num_Threads_Local


@functools.cache
def _mkl() -> ctypes.CDLL | None:
    """Return Paddle's MKL; None where this build of Paddle has none."""
    path = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    integer, number, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    second_and_out = [pointer, integer, number, pointer, integer]
    library.cblas_sgemm.argtypes = [integer] * 6 + [number, pointer, integer, *second_and_out]
    library.cblas_sgemm_compute.argtypes = [integer] * 6 + [pointer, integer, *second_and_out]
    library.cblas_sgemm_pack.argtypes = [integer] * 6 + [number, pointer, integer, pointer]
    library.cblas_sgemm_pack_get_size.argtypes = [integer] * 4
    library.cblas_sgemm_pack_get_size.restype = ctypes.c_size_t
    for function in (library.cblas_sgemm, library.cblas_sgemm_compute, library.cblas_sgemm_pack):
        function.restype = None
    return library
