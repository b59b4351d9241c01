"""Matrix products, error function, exponentials and tanh by Intel's MKL, on the calling thread alone.

Paddle's wheels for Linux contain MKL. `row_blocks` runs its work on several threads; NumPy's BLAS would start
further threads within each, which wait for one another, and NumPy has no error function. Without MKL, and for
types other than float32, NumPy does the work.
"""

import contextlib
import ctypes
import functools
import importlib.util
import threading
from pathlib import Path

import numpy as np

from config.machine.threads import is_helper
from models.kernels.onednn import has_wide_vectors

# Constants of MKL's interfaces: CblasRowMajor, CblasNoTrans, CblasTrans, CblasFixOffset.
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, _FIXED_OFFSET = 101, 111, 112, 173
_HIGH_ACCURACY = 2  # VML_HA: errors below one unit in the last place
_LOW_ACCURACY = 1  # VML_LA: errors of some one unit in the last place, as NumPy's
_COPIED = 1 << 20  # bytes of vectors that are multiplied pair by pair, at a time
# erf z = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), to 1.5e-7 for z >= 0 (Abramowitz and
# Stegun 1964, 7.1.26).
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def multiply_on_one_thread(
    a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Return `scale` times `a` [M,K] times `b` [K,N], written to `out` [M,N] if given.

    With `add`, the product is added to `out`.
    """
    if out is None:
        out = np.empty((len(a), b.shape[1]), np.result_type(a, b))
    if not fits(a, b, out) or out.strides[1] != out.itemsize:
        out[:] = scale * np.matmul(a, b) + (out if add else 0)
        return out
    return multiply_fitting(a, b, out, scale, add)


def multiply_fitting(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Do what `multiply_on_one_thread` does, for matrices that `fits` and an `out` with contiguous rows."""
    (a_order, a_leading), (b_order, b_leading), (_, out_leading) = map(layout, (a, b, out))
    call_on_one_thread(
        library().cblas_sgemm,
        *(ROW_MAJOR, a_order, b_order, *out.shape, a.shape[1], scale, a.ctypes.data, a_leading),
        *(b.ctypes.data, b_leading, float(add), out.ctypes.data, out_leading),
    )
    return out


def multiply_integers_on_one_thread(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a` [M,K] times `b` [K,N], int16 with contiguous rows or columns, as int32 [M,N].

    The function needs MKL. Sums that overflow wrap around.
    """
    out = np.empty((len(a), b.shape[1]), np.int32)
    (a_order, a_leading), (b_order, b_leading) = map(layout, (a, b))
    no_offset = ctypes.c_int32(0)
    call_on_one_thread(
        library().cblas_gemm_s16s16s32,
        *(ROW_MAJOR, a_order, b_order, _FIXED_OFFSET, *out.shape, a.shape[1], 1.0),
        *(a.ctypes.data, a_leading, 0, b.ctypes.data, b_leading, 0),
        *(0.0, out.ctypes.data, out.shape[1], ctypes.byref(no_offset)),
    )
    return out


def multiply_each(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the products [...,M,N] of `a` [...,M,K] and `b` [...,K,N], written to `out` if given."""
    if out is None:
        out = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    if not fits(a, b, out) or out.strides[-1] != out.itemsize:
        return np.matmul(a, b, out=out)
    (a_order, a_leading), (b_order, b_leading), (_, out_leading) = map(layout, (a, b, out))
    starts = [_starts(x) for x in (a, b, out)]
    numbers = (
        a_order,
        b_order,
        *out.shape[-2:],
        a.shape[-1],
        a_leading,
        b_leading,
        out_leading,
        starts[0].size,
    )
    sizes, factors = np.array(numbers, np.int32), np.array([1, 0], np.float32)
    at, factor = [sizes.ctypes.data + 4 * place for place in range(9)], factors.ctypes.data
    a_start, b_start, out_start = (addresses.ctypes.data for addresses in starts)
    call_on_one_thread(
        library().cblas_sgemm_batch,
        *(ROW_MAJOR, *at[:5], factor, a_start, at[5], b_start, at[6], factor + 4, out_start, at[7], 1, at[8]),
    )
    return out


def multiply_pairs(a: np.ndarray, rows: np.ndarray, b: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the inner products [n] of the vectors `rows` [n] of `a` [V,D] and `others` [n] of `b` [W,D].

    They are made on the calling thread. MKL reads the vectors where they lie; without it, they are copied, a
    few at a time. `a` and `b` are float32, with contiguous rows.
    """
    if not (len(rows) and fits(a, b) and a.strides[1] == b.strides[1] == a.itemsize):
        return _multiply_copies(a, rows, b, others)
    products = np.empty(len(rows), np.float32)
    starts = [x.ctypes.data + which * x.strides[0] for x, which in ((a, rows), (b, others))]
    starts.append(products.ctypes.data + np.arange(len(rows)) * products.itemsize)
    sizes = np.array([NO_TRANSPOSE, TRANSPOSE, 1, 1, a.shape[1], a.shape[1], len(rows)], np.int32)
    at, factors = [sizes.ctypes.data + 4 * place for place in range(7)], np.array([1, 0], np.float32)
    a_start, b_start, out_start = (addresses.ctypes.data for addresses in starts)
    call_on_one_thread(
        library().cblas_sgemm_batch,
        *(ROW_MAJOR, *at[:5], factors.ctypes.data, a_start, at[5], b_start, at[5]),
        *(factors.ctypes.data + 4, out_start, at[2], 1, at[6]),
    )
    return products


def _multiply_copies(a: np.ndarray, rows: np.ndarray, b: np.ndarray, others: np.ndarray) -> np.ndarray:
    products = np.empty(len(rows), np.float32)
    step = max(1, _COPIED // max(1, a.shape[1] * a.itemsize))
    # The room is taken once: a system may clear new pages each time that so much is asked for.
    room = np.empty((2, min(step, len(rows)), a.shape[1]), np.float32)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        x, y = (
            vectors.take(which[part], axis=0, out=to[: len(which[part])], mode="clip")
            for vectors, which, to in ((a, rows, room[0]), (b, others, room[1]))
        )
        products[part] = (x[:, None, :] @ y[:, :, None])[:, 0, 0]
    return products


def erf(x: np.ndarray) -> None:
    """Replace the values of `x`, a contiguous array, by their error function."""
    if library() is None or x.dtype != np.float32:
        x[...] = _erf_by_exponentials(x)
    else:
        call_on_one_thread(library().vmsErf, x.size, x.ctypes.data, x.ctypes.data, _HIGH_ACCURACY)


def tanh(x: np.ndarray) -> None:
    """Replace the values of `x`, a contiguous array, by their hyperbolic tangents."""
    if library() is None or x.dtype != np.float32 or has_wide_vectors():
        np.tanh(x, out=x)
    else:  # NumPy takes less than half as long with AVX-512, and two to three times as long without
        call_on_one_thread(library().vmsTanh, x.size, x.ctypes.data, x.ctypes.data, _LOW_ACCURACY)


def exp(x: np.ndarray) -> None:
    """Replace the values of `x`, a contiguous array, by their exponentials, infinity if too large."""
    if library() is None or x.dtype != np.float32:
        with np.errstate(over="ignore"):
            np.exp(x, out=x)
    else:
        call_on_one_thread(library().vmsExp, x.size, x.ctypes.data, x.ctypes.data, _LOW_ACCURACY)


def _erf_by_exponentials(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    t = 1 / (1 + x.dtype.type(_P) * size)
    polynomial = np.zeros_like(x)
    for factor in reversed(_A):
        polynomial += x.dtype.type(factor)
        polynomial *= t
    return np.copysign(1 - polynomial * np.exp(-size * size), x)


def fits(*matrices: np.ndarray) -> bool:
    """Tell whether MKL can read the matrices [...,M,N] without a copy.

    They must be float32 and not empty, with contiguous rows or columns and positive strides.
    """
    return library() is not None and all(
        x.dtype == np.float32 and x.size and x.itemsize in x.strides[-2:] and min(x.strides) > 0
        for x in matrices
    )


def layout(matrices: np.ndarray) -> tuple[int, int]:
    """Return NO_TRANSPOSE or TRANSPOSE, and the leading dimension, with which MKL reads each matrix.

    The leading dimension is the distance, in numbers, from one contiguous row (or column) to the next.
    """
    rows, columns = matrices.strides[-2:]
    if columns == matrices.itemsize:
        return NO_TRANSPOSE, max(rows // matrices.itemsize, matrices.shape[-1])
    return TRANSPOSE, max(columns // matrices.itemsize, matrices.shape[-2])


def _starts(matrices: np.ndarray) -> np.ndarray:
    """Return the address of each matrix of `matrices` [...,M,N]."""
    starts = np.array([matrices.ctypes.data])
    for count, stride in zip(matrices.shape[:-2], matrices.strides[:-2], strict=True):
        starts = np.add.outer(starts, np.arange(count) * stride).reshape(-1)
    return starts


def call_on_one_thread(function: ctypes._CFuncPtr, *arguments: float) -> None:
    """Call a function of MKL and keep MKL from starting threads for it, on a helper for good."""
    if getattr(_of_thread, "is_alone", False):
        function(*arguments)
        return
    before = _set_threads()(1)
    function(*arguments)
    if is_helper():
        _of_thread.is_alone = True
    else:
        _set_threads()(before)


_of_thread = threading.local()


@functools.cache
def _set_threads() -> ctypes._CFuncPtr:
    """Return MKL's setter of the calling thread's number of threads; the call keeps the interpreter lock."""
    return ctypes.PyDLL(library()._name).MKL_Set_Num_Threads_Local


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the MKL that Paddle contains, or None if this build of Paddle has none."""
    paddle = importlib.util.find_spec("paddle")  # found without importing it
    path = Path(paddle.origin).parent / "libs" / "libmklml_intel.so" if paddle else None
    if path is None or not path.exists():
        return None
    with contextlib.suppress(OSError):  # MKL needs it, and finds it where Paddle has loaded it before
        ctypes.CDLL(str(path.with_name("libiomp5.so")))
    found = ctypes.CDLL(str(path))
    integer, number, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    second_and_out = [pointer, integer, number, pointer, integer]
    found.cblas_sgemm.argtypes = [integer] * 6 + [number, pointer, integer, *second_and_out]
    found.cblas_sgemm_batch.argtypes = [integer, *[pointer] * 13, integer, pointer]
    found.cblas_sgemm_compute.argtypes = [integer] * 6 + [pointer, integer, *second_and_out]
    found.cblas_sgemm_pack.argtypes = [integer] * 6 + [number, pointer, integer, pointer]
    short_matrix = [pointer, integer, ctypes.c_int16]
    found.cblas_gemm_s16s16s32.argtypes = [
        *([integer] * 7 + [number]),
        *(short_matrix + short_matrix),
        *(number, pointer, integer, pointer),
    ]
    of_vectors = found.vmsErf, found.vmsExp, found.vmsTanh
    for function in of_vectors:
        function.argtypes = [integer, pointer, pointer, ctypes.c_longlong]
    plain = found.cblas_sgemm, found.cblas_sgemm_batch, found.cblas_sgemm_compute, found.cblas_sgemm_pack
    for function in (*plain, found.cblas_gemm_s16s16s32, *of_vectors):
        function.restype = None
    found.cblas_sgemm_pack_get_size.argtypes = [integer] * 4
    found.cblas_sgemm_pack_get_size.restype = ctypes.c_size_t
    return found
