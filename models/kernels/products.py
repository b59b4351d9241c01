"""Products of matrices in memory, each on all threads: float32 by Paddle's own MKL, the rest by NumPy.

Paddle's wheels for Linux bring Intel's MKL, and two things of it count here. It can lay out a matrix for its
kernels once and then multiply it many times: with the few rows of a late step of a recurrent layer that is
two to five times as fast as a product that lays it out again. And it works on the thread that calls it,
where the threads of NumPy's library go on waiting for more on the cores that `row_blocks` needs next.
"""

from collections.abc import Sequence

import numpy as np

from models.kernels.mkl import (
    AS_IT_IS,
    BY_ROWS,
    TRANSPOSED,
    fits,
    layout,
    library,
    multiply_on_one_thread,
    on_this_thread,
)
from models.kernels.row_blocks import equal_parts, for_each

_LAID_OUT, _SECOND = 151, 162  # of MKL's products with a matrix that was laid out before
_LINE = 64  # bytes of a line of the cache


def multiply(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Return `scale` times `a` [M,K] times `b` [K,N]; write it to `out` [M,N], or `add` it there."""
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


class RepeatedFactors:
    """Matrices [G,K,N], laid out once, that many others are multiplied with.

    `scales`: numbers [G] that go into the products; None: 1 for all.
    """

    def __init__(self, matrices: np.ndarray, scales: Sequence[float] | None = None) -> None:
        self._matrices, self._columns, self._laid_out = matrices, equal_parts(matrices.shape[2]), []
        scales = [1.0] * len(matrices) if scales is None else scales
        if fits(*matrices):
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

    def multiply_on_one_thread(self, x: np.ndarray) -> np.ndarray:
        """Do as `multiply`, on the calling thread alone."""
        if not self._laid_out:
            return np.matmul(x, self._matrices)
        out = self._room(len(self._matrices), len(x), x.dtype)
        for g in range(len(out)):
            for part in range(len(self._columns)):
                self._multiply_part(x, g, part, out)
        return out

    def add_on_one_thread(self, x: np.ndarray, out: np.ndarray) -> None:
        """Add what `multiply` returns to `out` [G,M,N], on the calling thread alone."""
        if not self._laid_out:
            out += np.matmul(x, self._matrices)
            return
        for matrix, of_matrix in zip(self._laid_out, out, strict=True):
            for part, columns in zip(matrix, self._columns, strict=True):
                part.multiply(x, of_matrix[:, columns], add=True)

    def sum_products(self, xs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the sum [M,N] of the products of G `xs` [M,K], rows in one piece, with a matrix each."""
        if not self._laid_out:
            return sum(map(np.matmul, xs, self._matrices))
        out = self._room(1, len(xs[0]), xs[0].dtype)[0]
        for_each(lambda part: self._sum_part(xs, part, out), range(len(self._columns)))
        return out

    def sum_products_on_one_thread(self, xs: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write what `sum_products` returns to `out` [M,N], on the calling thread alone."""
        if not self._laid_out:
            out[:] = sum(map(np.matmul, xs, self._matrices))
            return
        for part in range(len(self._columns)):
            self._sum_part(xs, part, out)

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
        size = library().cblas_sgemm_pack_get_size(_SECOND, 1, matrix.shape[1], len(matrix))
        self._memory = np.empty(size + _LINE, np.uint8)
        self._start = -(-self._memory.ctypes.data // _LINE) * _LINE

    def fill(self) -> None:
        matrix, (depth, width), (order, leading) = self._matrix, self._matrix.shape, layout(self._matrix)
        if order == TRANSPOSED:
            # Its rows are read side by side; a power of two apart, they would all want the same cache lines.
            matrix = np.empty((width, depth + _LINE // matrix.itemsize), matrix.dtype)[:, :depth]
            matrix[:] = self._matrix.T
            leading = matrix.strides[0] // matrix.itemsize
        on_this_thread(
            library().cblas_sgemm_pack,
            *(BY_ROWS, _SECOND, order, 1, width, depth, self._scale),
            *(matrix.ctypes.data, leading, self._start),
        )

    def multiply(self, x: np.ndarray, out: np.ndarray, add: bool) -> None:
        depth, width = self._matrix.shape
        on_this_thread(
            library().cblas_sgemm_compute,
            *(BY_ROWS, AS_IT_IS, _LAID_OUT, len(x), width, depth, x.ctypes.data, layout(x)[1]),
            *(self._start, width, float(add), out.ctypes.data, layout(out)[1]),
        )
