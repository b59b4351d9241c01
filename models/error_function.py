"""The error function, which NumPy lacks, on the thread that calls it.

Paddle's wheels for Linux bring Intel's MKL, which has one; elsewhere a formula of exponentials serves.
"""

import ctypes
import functools
from pathlib import Path

import numpy as np
import paddle

_HIGH_ACCURACY = 2  # within one unit in the last place; MKL's constant
# erf z = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), to 1.5e-7 for z >= 0 (Abramowitz and
# Stegun 1964, 7.1.26).
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def erf(x: np.ndarray) -> None:
    """Replace the values of `x`, float32 without gaps, by their error function."""
    mkl = _mkl()
    if mkl is None or x.dtype != np.float32:
        x[...] = _by_exponentials(x)
        return
    before = mkl.MKL_Set_Num_Threads_Local(1)
    mkl.vmsErf(x.size, x.ctypes.data, x.ctypes.data, _HIGH_ACCURACY)
    mkl.MKL_Set_Num_Threads_Local(before)


def _by_exponentials(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    t = 1 / (1 + x.dtype.type(_P) * size)
    polynomial = np.zeros_like(x)
    for factor in reversed(_A):
        polynomial += x.dtype.type(factor)
        polynomial *= t
    return np.copysign(1 - polynomial * np.exp(-size * size), x)


@functools.cache
def _mkl() -> ctypes.CDLL | None:
    """Return Paddle's MKL; None where this build of Paddle has none."""
    path = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    library.vmsErf.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong]
    library.vmsErf.restype = None
    return library
