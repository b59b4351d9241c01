"""Matrix products on all threads: float32 by the MKL that Paddle contains, other types by NumPy.

MKL has two advantages over NumPy here. MKL can pack a matrix into the layout of its kernels once and multiply
it many times: with the few rows of a late step of a recurrent layer, that is two to five times as fast as a
product that packs the matrix again. And MKL works on the calling thread, while the threads of NumPy's BLAS
spin after a product and hold the cores that `row_blocks` needs next.
"""

from collections.abc import Sequence

import numpy as np

from models.kernels.mkl import (
    NO_TRANSPOSE,
    ROW_MAJOR,
    TRANSPOSE,
    call_on_one_thread,
    fits,
    layout,
    library,
    multiply_on_one_thread,
)
from models.kernels.row_blocks import equal_parts, for_each

_PACKED, _B_MATRIX = 151, 162  # CblasPacked, CblasBMatrix
_CACHE_LINE = 64  # bytes


def multiply(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Return `scale` times `a` [M,K] times `b` [K,N], written to `out` [M,N] if given.

    With `add`, the product is added to `out`.
    """
    if out is None:
        out = np.empty((len(a), b.shape[1]), np.result_type(a, b))
    if not fits(a, b, out):
        return multiply_on_one_thread(a, b, out, scale, add)
    if len(out) >= out.shape[1]:
        parts = [(a[rows], b, out[rows]) for rows in equal_parts(len(out))]
    else:
        parts = [(a, b[:, columns], out[:, columns]) for columns in equal_parts(out.shape[1])]
    for_each(lambda part: multiply_on_one_thread(*part, scale, add), parts)
    return out


class PackedMatrices:
    """Matrices [G,K,N] that MKL packs once, to multiply them with many others.

    `scales` are factors [G] of the products; None means 1.
    """

    def __init__(self, matrices: np.ndarray, scales: Sequence[float] | None = None) -> None:
        self._matrices, self._columns, self._packed = matrices, equal_parts(matrices.shape[2]), []
        scales = [1.0] * len(matrices) if scales is None else scales
        if fits(*matrices):
            self._packed = [
                [_PackedMatrix(matrix[:, columns], scale) for columns in self._columns]
                for matrix, scale in zip(matrices, scales, strict=True)
            ]
            for_each(_PackedMatrix.pack, [part for parts in self._packed for part in parts])
        else:
            self._matrices = matrices * np.array(scales, matrices.dtype)[:, None, None]

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """Return `x` [M,K], whose rows are contiguous, times each matrix: [G,M,N]."""
        if not self._packed:
            return np.matmul(x, self._matrices)
        out = self._empty(len(self._matrices), len(x), x.dtype)
        tasks = [(g, part) for g in range(len(out)) for part in range(len(self._columns))]
        for_each(lambda task: self._multiply_part(x, *task, out), tasks)
        return out

    def multiply_on_one_thread(self, x: np.ndarray) -> np.ndarray:
        """Return what `multiply` does, computed on the calling thread alone."""
        if not self._packed:
            return np.matmul(x, self._matrices)
        out = self._empty(len(self._matrices), len(x), x.dtype)
        for g in range(len(out)):
            for part in range(len(self._columns)):
                self._multiply_part(x, g, part, out)
        return out

    def add_on_one_thread(self, x: np.ndarray, out: np.ndarray) -> None:
        """Add the products of `multiply` to `out` [G,M,N], on the calling thread alone."""
        if not self._packed:
            out += np.matmul(x, self._matrices)
            return
        for matrix, of_matrix in zip(self._packed, out, strict=True):
            for part, columns in zip(matrix, self._columns, strict=True):
                part.multiply(x, of_matrix[:, columns], add=True)

    def sum_products(self, xs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the sum over g of `xs[g]` [M,K], whose rows are contiguous, times matrix g: [M,N]."""
        if not self._packed:
            return sum(map(np.matmul, xs, self._matrices))
        out = self._empty(1, len(xs[0]), xs[0].dtype)[0]
        for_each(lambda part: self._sum_part(xs, part, out), range(len(self._columns)))
        return out

    def sum_products_on_one_thread(self, xs: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write the sum of `sum_products` to `out` [M,N], on the calling thread alone."""
        if not self._packed:
            out[:] = sum(map(np.matmul, xs, self._matrices))
            return
        for part in range(len(self._columns)):
            self._sum_part(xs, part, out)

    def _empty(self, count: int, rows: int, dtype: np.dtype) -> np.ndarray:
        return np.empty((count, rows, self._matrices.shape[2]), dtype)

    def _multiply_part(self, x: np.ndarray, g: int, part: int, out: np.ndarray) -> None:
        self._packed[g][part].multiply(x, out[g][:, self._columns[part]], add=False)

    def _sum_part(self, xs: Sequence[np.ndarray], part: int, out: np.ndarray) -> None:
        for g, x in enumerate(xs):
            self._packed[g][part].multiply(x, out[:, self._columns[part]], add=g > 0)


class _PackedMatrix:
    """A matrix [K,N] times `scale`, in MKL's packed layout once `pack` was called."""

    def __init__(self, matrix: np.ndarray, scale: float) -> None:
        self._matrix, self._scale = matrix, scale
        size = library().cblas_sgemm_pack_get_size(_B_MATRIX, 1, matrix.shape[1], len(matrix))
        self._memory = np.empty(size + _CACHE_LINE, np.uint8)
        self._start = -(-self._memory.ctypes.data // _CACHE_LINE) * _CACHE_LINE

    def pack(self) -> None:
        matrix, (depth, width), (order, leading) = self._matrix, self._matrix.shape, layout(self._matrix)
        if order == TRANSPOSE:
            # MKL reads the rows side by side; a power of two apart, they would share the same cache lines.
            matrix = np.empty((width, depth + _CACHE_LINE // matrix.itemsize), matrix.dtype)[:, :depth]
            matrix[:] = self._matrix.T
            leading = matrix.strides[0] // matrix.itemsize
        call_on_one_thread(
            library().cblas_sgemm_pack,
            *(ROW_MAJOR, _B_MATRIX, order, 1, width, depth, self._scale),
            *(matrix.ctypes.data, leading, self._start),
        )

    def multiply(self, x: np.ndarray, out: np.ndarray, add: bool) -> None:
        depth, width = self._matrix.shape
        call_on_one_thread(
            library().cblas_sgemm_compute,
            *(ROW_MAJOR, NO_TRANSPOSE, _PACKED, len(x), width, depth, x.ctypes.data, layout(x)[1]),
            *(self._start, width, float(add), out.ctypes.data, layout(out)[1]),
        )
