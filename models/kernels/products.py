"""The one door to matrix products: on all threads or on the calling one, by the library that was chosen.

`models/kernels/choice.py` chooses among MKL, oneDNN and NumPy. MKL and oneDNN have two advantages over NumPy
here. They can pack a matrix into the layout of their kernels once and multiply it many times. And they work
on the calling thread, while the threads of NumPy's BLAS spin after a product and hold the cores that
`row_blocks` needs next. What the chosen library cannot read, such as float64, NumPy multiplies.

With `bfloat16`, factors of float32 are rounded to bfloat16 first, and oneDNN multiplies them and adds up in
float32; where that cannot be, the product is one of float32. `models/kernels/precision.py` says when.
"""

from collections.abc import Callable, Sequence

import numpy as np

from config.machine.threads import for_each
from models.kernels import mkl, mkl_products, numpy_products, onednn, onednn_products
from models.kernels.choice import chosen
from models.kernels.row_blocks import equal_parts

_DEPTHS = 64  # where tiles are multiplied, depths are multiples of this


def multiply(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    scale: float = 1.0,
    add: bool = False,
    bfloat16: bool = False,
) -> np.ndarray:
    """Return `scale` times `a` [M,K] times `b` [K,N], written to `out` [M,N] if given.

    With `add`, the product is added to `out`. Both factors may be rounded before, by `left_factor` and
    `right_factor`, for several products.
    """
    out = _result(a, b, out)
    if _lowers(bfloat16, (a, b), out):
        a, b = left_factor(a, True), right_factor(b, True)
    elif a.dtype != np.uint16 and _provider(chosen().plain, (a, b), out) == "numpy":
        return numpy_products.multiply(a, b, out, scale, add)
    if len(out) >= out.shape[1]:
        parts = [(a[rows], b, out[rows]) for rows in equal_parts(len(out))]
    else:
        parts = [(a, b[:, columns], out[:, columns]) for columns in equal_parts(out.shape[1])]
    for_each(lambda part: multiply_on_one_thread(*part, scale, add), parts)
    return out


def multiply_on_one_thread(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    scale: float = 1.0,
    add: bool = False,
    bfloat16: bool = False,
) -> np.ndarray:
    """Return what `multiply` does, computed on the calling thread alone, unless NumPy multiplies."""
    out = _result(a, b, out)
    if _lowers(bfloat16, (a, b), out):
        a, b = _rounded(a, False, _in_one), _rounded(b, True, _in_one)
    provider = "onednn" if a.dtype == np.uint16 else _provider(chosen().plain, (a, b), out)
    if provider == "mkl":
        return mkl.multiply_fitting(a, b, out, scale, add)
    if provider == "numpy":
        return numpy_products.multiply(a, b, out, scale, add)
    if scale == 1:
        return onednn_products.multiply(a, b, out, add)
    product = scale * onednn_products.multiply(a, b)
    np.add(out, product, out=out) if add else np.copyto(out, product)
    return out


def left_factor(a: np.ndarray, bfloat16: bool) -> np.ndarray:
    """Return `a` [M,K] as `multiply` rounds its first factor, or as it is without `bfloat16`."""
    return _rounded(a, False, equal_parts) if _lowers(bfloat16, (a,)) else a


def right_factor(b: np.ndarray, bfloat16: bool) -> np.ndarray:
    """Return `b` [K,N] as `multiply` rounds its second factor, or as it is without `bfloat16`."""
    return _rounded(b, True, equal_parts) if _lowers(bfloat16, (b,)) else b


def multiply_transposed(
    lefts: Sequence[np.ndarray], right: np.ndarray, outs: Sequence[np.ndarray], bfloat16: bool = False
) -> None:
    """Write the products of each of `lefts` [K,M], transposed, and of `right` [K,N] to `outs`, [M,N] each.

    These are gradients of weights, K being the rows of a batch. With `bfloat16`, `right` is rounded and
    packed once for all of them, with zeros up to a multiple of rows: code is compiled for few depths.
    """
    if onednn.has_tiles() or not _lowers(bfloat16, [*lefts, right, *outs]):
        factor = right_factor(right, bfloat16)
        for left, out in zip(lefts, outs, strict=True):
            multiply(left_factor(left.T, bfloat16), factor, out=out)
        return
    *rounded, common = (_with_whole_depth(x) for x in (*lefts, right))

    def multiply_columns(columns: slice) -> None:
        packed = onednn_products.PackedMatrix(common[:, columns])
        for left, out in zip(rounded, outs, strict=True):
            packed.multiply(left.T, out[:, columns])

    for_each(multiply_columns, equal_parts(right.shape[1]))


def _with_whole_depth(x: np.ndarray) -> np.ndarray:
    """Return `x` [K,N] as bfloat16, with rows of zeros up to a multiple of `_DEPTHS`."""
    rounded = np.empty((-(-len(x) // _DEPTHS) * _DEPTHS, x.shape[1]), np.uint16)
    rounded[len(x) :] = 0
    for_each(lambda rows: onednn_products.to_bfloat16(x[rows], rounded[rows]), equal_parts(len(x)))
    return rounded


class PackedMatrices:
    """Matrices [G,K,N] that are packed once, to multiply them with many others.

    `scales` are factors [G] of the products; None means 1. The columns are shared among threads. Blocks of
    rows are best multiplied in multiples of `rows_together`.
    """

    def __init__(
        self, matrices: np.ndarray, scales: Sequence[float] | None = None, bfloat16: bool = False
    ) -> None:
        scales = [1.0] * len(matrices) if scales is None else scales
        self._width, self._bfloat16 = matrices.shape[2], _lowers(bfloat16, matrices)
        provider = "onednn" if self._bfloat16 else _provider(chosen().packed, matrices)
        self.fuses_gelu = provider == "onednn"
        self.rows_together = 64 if provider == "onednn" else 8  # oneDNN has compiled code for multiples of 64
        pack = {"mkl": mkl_products.PackedMatrix, "onednn": self._pack, "numpy": numpy_products.PackedMatrix}
        # NumPy shares each product among threads itself.
        self._columns = [slice(0, self._width)] if provider == "numpy" else equal_parts(self._width)
        self._packed: list[list] = [[None] * len(self._columns) for _ in matrices]

        def pack_part(task: tuple[int, int]) -> None:
            g, part = task
            matrix = matrices[g][:, self._columns[part]]
            self._packed[g][part] = pack[provider](matrix, scales[g])

        for_each(pack_part, self._tasks())

    def _pack(self, matrix: np.ndarray, scale: float) -> onednn_products.PackedMatrix:
        return onednn_products.PackedMatrix(
            matrix if scale == 1 else matrix * np.float32(scale), self._bfloat16
        )

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """Return `x` [M,K], whose rows are contiguous, times each matrix: [G,M,N]."""
        out, x = self._empty(len(self._packed), x), self._ready(x)
        for_each(lambda task: self._multiply_part(x, *task, out), self._tasks())
        return out

    def multiply_on_one_thread(self, x: np.ndarray) -> np.ndarray:
        """Return what `multiply` does, computed on the calling thread alone."""
        out, x = self._empty(len(self._packed), x), self._ready(x)
        for task in self._tasks():
            self._multiply_part(x, *task, out)
        return out

    def add_on_one_thread(self, x: np.ndarray, out: Sequence[np.ndarray]) -> None:
        """Add the products of `multiply` to the G arrays `out`, [M,N] each, on the calling thread alone."""
        x = self._ready(x)
        for task in self._tasks():
            self._multiply_part(x, *task, out, add=True)

    def gelu_on_one_thread(self, x: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return gelu of `x` [M,K] times the only matrix plus `bias` [N], [M,N], on the calling thread alone.

        It is for matrices that have `fuses_gelu`.
        """
        (out,), x = self._empty(1, x), self._ready(x)
        for part, columns in enumerate(self._columns):
            self._packed[0][part].multiply_gelu(x, bias[columns], out[:, columns])
        return out

    def sum_products(self, xs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the sum over g of `xs[g]` [M,K], whose rows are contiguous, times matrix g: [M,N]."""
        out, xs = self._empty(1, xs[0])[0], [self._ready(x) for x in xs]
        for_each(lambda part: self._sum_part(xs, part, out), range(len(self._columns)))
        return out

    def sum_products_on_one_thread(self, xs: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write the sum of `sum_products` to `out` [M,N], on the calling thread alone."""
        xs = [self._ready(x) for x in xs]
        for part in range(len(self._columns)):
            self._sum_part(xs, part, out)

    def _tasks(self) -> list[tuple[int, int]]:
        return [(g, part) for g in range(len(self._packed)) for part in range(len(self._columns))]

    def _ready(self, x: np.ndarray) -> np.ndarray:
        return onednn_products.to_bfloat16(x) if self._bfloat16 and x.size else x

    def _empty(self, count: int, x: np.ndarray) -> np.ndarray:
        return np.empty((count, len(x), self._width), x.dtype)

    def _multiply_part(
        self, x: np.ndarray, g: int, part: int, out: Sequence[np.ndarray], add: bool = False
    ) -> None:
        self._packed[g][part].multiply(x, out[g][:, self._columns[part]], add)

    def _sum_part(self, xs: Sequence[np.ndarray], part: int, out: np.ndarray) -> None:
        for g, x in enumerate(xs):
            self._packed[g][part].multiply(x, out[:, self._columns[part]], add=g > 0)


def _in_one(count: int) -> list[slice]:
    return [slice(0, count)]


def _result(a: np.ndarray, b: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is not None:
        return out
    kind = np.float32 if a.dtype == np.uint16 else np.result_type(a, b)
    return np.empty((len(a), b.shape[1]), kind)


def _lowers(bfloat16: bool, matrices: Sequence[np.ndarray], out: np.ndarray | None = None) -> bool:
    """Tell whether a product is one of bfloat16: it is asked for, and oneDNN can read the matrices."""
    if not (bfloat16 and onednn.has_bfloat16() and all(matrix.dtype == np.float32 for matrix in matrices)):
        return False
    return _provider("onednn", matrices, out) == "onednn"


def _provider(wanted: str, matrices: Sequence[np.ndarray], out: np.ndarray | None = None) -> str:
    """Return the library that multiplies: the one `wanted`, or NumPy where that cannot read a matrix."""
    fits = {"mkl": mkl.fits, "onednn": onednn_products.fits}.get(wanted)
    if fits is None or not fits(*matrices):
        return "numpy"
    return wanted if out is None or (fits(out) and out.strides[1] == out.itemsize) else "numpy"


def _rounded(x: np.ndarray, is_second: bool, parts_of: Callable[[int], list[slice]]) -> np.ndarray:
    """Return a factor [M,K], or the second one [K,N], as bfloat16; threads share `parts_of` so many rows.

    Where the processor multiplies tiles (AMX), the depth K is in one piece in both factors, with zeros up to
    a multiple of `_DEPTHS`, so that code is compiled for few depths: a product is up to 1.7 times as fast.
    Elsewhere it gains a twentieth at most, and to move the numbers takes seven times as long as to round
    them: they stay as they lie.
    """
    if onednn.has_tiles():
        moved = is_second
        rows = x.T if moved else x
        width = -(-rows.shape[1] // _DEPTHS) * _DEPTHS
    else:
        moved = x.strides[1] != x.itemsize
        rows = x.T if moved else x
        width = rows.shape[1]
    rounded = np.empty((len(rows), width), np.uint16)
    filled = rounded[:, : rows.shape[1]]
    for_each(lambda part: onednn_products.to_bfloat16(rows[part], filled[part]), parts_of(len(rows)))
    rounded[:, rows.shape[1] :] = 0
    return rounded.T if moved else rounded
