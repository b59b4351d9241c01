"""Matrix products by NumPy: of every type and in every layout, on the threads that NumPy starts itself."""

import numpy as np


def multiply(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, scale: float = 1.0, add: bool = False
) -> np.ndarray:
    """Write `scale` times `a` [M,K] times `b` [K,N] to `out` [M,N], or add it with `add`; return `out`."""
    if scale == 1 and not add:
        return np.matmul(a, b, out=out)
    out[:] = scale * np.matmul(a, b) + (out if add else 0)
    return out


class PackedMatrix:
    """A matrix [K,N], which NumPy cannot pack, times `scale`."""

    def __init__(self, matrix: np.ndarray, scale: float = 1.0) -> None:
        self._matrix = matrix if scale == 1 else matrix * matrix.dtype.type(scale)

    def multiply(self, x: np.ndarray, out: np.ndarray, add: bool = False) -> None:
        """Write `x` [M,K] times the matrix to `out` [M,N], or add it with `add`."""
        if add:
            out += np.matmul(x, self._matrix)
        else:
            np.matmul(x, self._matrix, out=out)
