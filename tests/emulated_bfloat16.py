"""Products of bfloat16 on a processor without instructions for them: factors are rounded, then multiplied.

The instructions multiply two numbers of 8 significant bits exactly and add up in float32. So does a product
of float32 whose factors are rounded; only the order of its sums differs. It takes longer than one of float32.
"""

import sys
from collections.abc import Callable

import numpy as np

from models.kernels import onednn, onednn_products
from models.kernels.onednn_products import from_bfloat16
from models.layers.fused import write_gelu

Replace = Callable[[object, str, object], None]


def emulate_bfloat16(replace: Replace) -> None:
    """Let all layers multiply bfloat16 here; `replace(owner, name, value)` is `setattr`, or pytest's."""
    has_bfloat16 = onednn.has_bfloat16
    for module in list(sys.modules.values()):
        if getattr(module, "has_bfloat16", None) is has_bfloat16:
            replace(module, "has_bfloat16", lambda: True)
    multiply, packed = onednn_products.multiply, onednn_products.PackedMatrix

    def multiply_rounded(
        a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, add: float = 0
    ) -> np.ndarray:
        if a.dtype != np.uint16:
            return multiply(a, b, out, add)
        return multiply(_readable(a), _readable(b), out, add)

    class PackedMatrix:
        def __init__(self, matrix: np.ndarray, bfloat16: bool = False) -> None:
            self._rounds = bfloat16 or matrix.dtype == np.uint16
            if self._rounds and matrix.dtype != np.uint16:
                matrix = to_bfloat16(matrix)
            self._packed = packed(from_bfloat16(matrix) if self._rounds else matrix)
            self.shape = self._packed.shape

        def multiply(self, x: np.ndarray, out: np.ndarray | None = None, add: bool = False) -> np.ndarray:
            if self._rounds:
                x = from_bfloat16(x if x.dtype == np.uint16 else to_bfloat16(x))
            return self._packed.multiply(x, out, add)

        def multiply_gelu(self, x: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
            write_gelu(self.multiply(x, out), bias)

    replace(onednn_products, "to_bfloat16", to_bfloat16)
    replace(onednn_products, "multiply", multiply_rounded)
    replace(onednn_products, "PackedMatrix", PackedMatrix)


def to_bfloat16(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return `x` as the nearest bfloat16, ties to even; subnormal numbers become 0, as they are read."""
    out = np.empty(x.shape, np.uint16) if out is None else out
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    np.copyto(out, rounded, casting="unsafe")
    out[np.abs(x) < np.finfo(np.float32).tiny] = 0
    special = ~np.isfinite(x)  # the sum above may carry into the sign of a NaN
    if special.any():
        out[special] = (bits[special] >> 16) | np.where(np.isnan(x[special]), 0x40, 0)
    return out


def _readable(x: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers as float32, lying as they did."""
    return from_bfloat16(x.T).T if x.strides[0] == x.itemsize else from_bfloat16(x)
