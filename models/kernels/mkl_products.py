"""A matrix that MKL has packed, to multiply it with many on the calling thread alone."""

import numpy as np

from models.kernels.mkl import NO_TRANSPOSE, ROW_MAJOR, TRANSPOSE, call_on_one_thread, layout, library
from models.kernels.onednn import has_wide_vectors

_PACKED, _B_MATRIX = 151, 162  # CblasPacked, CblasBMatrix
_CACHE_LINE = 64  # bytes
# MKL's kernels for AVX2 read so many rows where they lie. 72 to 400 rows they copy first, into memory that a
# thread keeps, and take up to 1.8 times as long for them, unless the thread's first product had 512 rows.
_MOST_ROWS = 64


class PackedMatrix:
    """A matrix [K,N], which `mkl.fits`, times `scale`, in the layout of MKL's kernels.

    With the few rows of a late step of a recurrent layer, a product by it is two to five times as fast as one
    that packs the matrix again.
    """

    def __init__(self, matrix: np.ndarray, scale: float = 1.0) -> None:
        depth, width = self._shape = matrix.shape
        size = library().cblas_sgemm_pack_get_size(_B_MATRIX, 1, width, depth)
        self._memory = np.empty(size + _CACHE_LINE, np.uint8)
        self._start = -(-self._memory.ctypes.data // _CACHE_LINE) * _CACHE_LINE
        order, leading = layout(matrix)
        if order == TRANSPOSE:
            # MKL reads the rows side by side; a power of two apart, they would share the same cache lines.
            moved = np.empty((width, depth + _CACHE_LINE // matrix.itemsize), matrix.dtype)[:, :depth]
            moved[:] = matrix.T
            matrix, leading = moved, moved.strides[0] // moved.itemsize
        call_on_one_thread(
            library().cblas_sgemm_pack,
            *(ROW_MAJOR, _B_MATRIX, order, 1, width, depth, scale),
            *(matrix.ctypes.data, leading, self._start),
        )

    def multiply(self, x: np.ndarray, out: np.ndarray, add: bool = False) -> None:
        """Write `x` [M,K], with contiguous rows, times the matrix to `out` [M,N], or add it with `add`."""
        depth, width = self._shape
        most = max(1, len(x)) if has_wide_vectors() else _MOST_ROWS
        for start in range(0, len(x), most):
            part, product = x[start : start + most], out[start : start + most]
            call_on_one_thread(
                library().cblas_sgemm_compute,
                *(ROW_MAJOR, NO_TRANSPOSE, _PACKED, len(part), width, depth),
                *(part.ctypes.data, layout(part)[1], self._start, width),
                *(float(add), product.ctypes.data, layout(product)[1]),
            )
