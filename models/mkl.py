"""Intel's MKL, which Paddle's wheels for Linux bring, on the thread that calls and on no others.

`row_blocks` shares work among its threads. NumPy's library would start others within each of them, which all
wait for one another; and NumPy has no error function. Where there is no MKL, NumPy has to do.
"""

import ctypes
import functools
from pathlib import Path

import numpy as np
import paddle

# Constants of MKL's interfaces.
_BY_ROWS, _AS_IT_IS, _TRANSPOSED = 101, 111, 112
_HIGH_ACCURACY = 2  # within one unit in the last place
# erf z = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), to 1.5e-7 for z >= 0 (Abramowitz and
# Stegun 1964, 7.1.26).
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def multiply_each(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the products [G,M,N] of each of `a` [G,M,K] with each of `b` [G,K,N], in `out` where given."""
    if out is None:
        out = np.empty((*a.shape[:2], b.shape[2]), a.dtype)
    if not _fits(a, b, out) or out.strides[2] != out.itemsize:
        return np.matmul(a, b, out=out)
    (groups, rows, columns), (a_order, a_leading), (b_order, b_leading) = out.shape, _layout(a), _layout(b)
    numbers = (a_order, b_order, rows, columns, a.shape[2], a_leading, b_leading, _layout(out)[1], groups)
    sizes, factors = np.array(numbers, np.int32), np.array([1, 0], np.float32)
    starts = np.array([[x.ctypes.data, x.strides[0]] for x in (a, b, out)])
    starts = starts[:, :1] + np.arange(groups) * starts[:, 1:]
    at, factor = [sizes.ctypes.data + 4 * place for place in range(9)], factors.ctypes.data
    a_start, b_start, out_start = (starts.ctypes.data + 8 * groups * place for place in range(3))
    _on_this_thread(
        _mkl().cblas_sgemm_batch,
        *(_BY_ROWS, *at[:5], factor, a_start, at[5], b_start, at[6], factor + 4, out_start, at[7], 1, at[8]),
    )
    return out


def erf(x: np.ndarray) -> None:
    """Replace the values of `x`, in one piece, by their error function."""
    if _mkl() is None or x.dtype != np.float32:
        x[...] = _erf_by_exponentials(x)
    else:
        _on_this_thread(_mkl().vmsErf, x.size, x.ctypes.data, x.ctypes.data, _HIGH_ACCURACY)


def _erf_by_exponentials(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    t = 1 / (1 + x.dtype.type(_P) * size)
    polynomial = np.zeros_like(x)
    for factor in reversed(_A):
        polynomial += x.dtype.type(factor)
        polynomial *= t
    return np.copysign(1 - polynomial * np.exp(-size * size), x)


def _fits(*matrices: np.ndarray) -> bool:
    """Whether MKL can read the matrices [G,M,N] as they are: float32, with rows or columns in one piece."""
    return _mkl() is not None and all(
        x.dtype == np.float32 and x.size and x.itemsize in x.strides[1:] and min(x.strides) > 0
        for x in matrices
    )


def _layout(matrices: np.ndarray) -> tuple[int, int]:
    """Return how MKL is to read each matrix, and the distance from one row (or column) to the next."""
    _, rows, columns = matrices.strides
    if columns == matrices.itemsize:
        return _AS_IT_IS, max(rows // matrices.itemsize, matrices.shape[2])
    return _TRANSPOSED, max(columns // matrices.itemsize, matrices.shape[1])


def _on_this_thread(function: ctypes._CFuncPtr, *arguments: float) -> None:
    before = _set_threads()(1)
    function(*arguments)
    _set_threads()(before)


@functools.cache
def _set_threads() -> ctypes._CFuncPtr:
    """Return what sets the calling thread's number of threads, without letting go of the interpreter."""
    return ctypes.PyDLL(_mkl()._name).MKL_Set_Num_Threads_Local


@functools.cache
def _mkl() -> ctypes.CDLL | None:
    path = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    library.cblas_sgemm_batch.argtypes = [integer, *[pointer] * 13, integer, pointer]
    library.vmsErf.argtypes = [integer, pointer, pointer, ctypes.c_longlong]
    for function in (library.cblas_sgemm_batch, library.vmsErf):
        function.restype = None
    return library
