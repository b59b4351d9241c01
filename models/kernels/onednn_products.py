"""Matrix products of float32, bfloat16 and bytes by oneDNN, on the calling thread alone.

NumPy has no bfloat16: an array of uint16 holds the upper halves of float32 numbers. Products of bfloat16 are
added up in float32, and are float32. The instructions for bfloat16 read numbers below 1.2e-38 (subnormals) as
0; everything else is as IEEE 754 says, with NaN and infinities.
"""

import functools
import threading
from collections.abc import Hashable, Sequence

import numpy as np

from models.kernels import onednn
from models.kernels.mkl import TRANSPOSE, layout

_KINDS = {np.dtype(np.float32): onednn.FLOAT32, np.dtype(np.uint16): onednn.BFLOAT16}
_KINDS[np.dtype(np.int8)] = onednn.INT8
# Code is compiled for each number of rows, and of products that are added up, which takes longer than most
# products. Those of a batch differ from one batch to the next. So beyond `_EXACT`, multiples of `_STEP` and
# what is left are multiplied one after the other, and the shapes stay few.
_STEP = 64
_EXACT = 2 * _STEP
_MOST_SHAPES = 2048  # that a thread keeps


def fits(*matrices: np.ndarray) -> bool:
    """Tell whether oneDNN is there and can read the matrices [M,N] without a copy.

    They must be float32, bfloat16 (uint16) or int8 and not empty, with contiguous rows or columns and
    positive strides.
    """
    return onednn.library() is not None and all(
        x.dtype in _KINDS and x.size and x.itemsize in x.strides and min(x.strides) > 0 for x in matrices
    )


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, add: float = 0) -> np.ndarray:
    """Return `a` [M,K] times `b` [K,N] as float32, written to `out` [M,N] if given, plus `add` times `out`.

    Both factors are float32, or both bfloat16 (uint16), or both int8, whose sums are exact before they become
    float32. The factors and `out` must be ones that `fits`.
    Raises onednn.UnsupportedError for bfloat16 on a processor that has no code for it.
    """
    if out is None:
        out = np.empty((len(a), b.shape[1]), np.float32)
    whole, depth = len(b), len(b)
    # The depth of a gradient of weights is a batch's number of rows, and its first factor lies by columns.
    if depth > _EXACT and a.strides[0] == a.itemsize:
        whole = depth // _STEP * _STEP
    _multiply(a[:, :whole], b[:whole], out, add)
    if whole < depth:
        rest = [np.zeros((_STEP, side.shape[1]), side.dtype) for side in (a.T, b)]
        for padded, side in zip(rest, (a.T, b), strict=True):
            padded[: depth - whole] = side[whole:]
        _multiply(rest[0].T, rest[1], out, 1)
    return out


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: float) -> None:
    b = _readable(b)
    for rows in _parts(len(a), again=not add):
        part, product = _readable(a[rows]), out[rows]
        shapes = [_shape(part), _shape(b), _shape(product)]
        _prepared("product", shapes, add).run(part.ctypes.data, product.ctypes.data, b.ctypes.data)


def to_bfloat16(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return `x` [M,N], float32 with contiguous rows or columns, as the nearest bfloat16 (ties to even)."""
    if out is None:
        out = np.empty(x.shape, np.uint16)
    for rows in _parts(len(x)):
        part, rounded = _readable(x[rows]), out[rows]
        _prepared("copy", [_shape(part), _shape(rounded)]).run(part.ctypes.data, rounded.ctypes.data)
    return out


def from_bfloat16(x: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers (uint16, any shape) as float32, which has them all."""
    return (x.astype(np.uint32) << 16).view(np.float32)


class PackedMatrix:
    """A matrix [K,N], float32 or bfloat16 (uint16), in the layout of oneDNN's code, to multiply with many.

    With `bfloat16`, a matrix of float32 is rounded. Raises onednn.UnsupportedError as `multiply` does.
    """

    def __init__(self, matrix: np.ndarray, bfloat16: bool = False) -> None:
        self.shape = matrix.shape
        self.dtype = np.dtype(np.uint16 if bfloat16 else matrix.dtype)
        self._layout = _packed_layout(self.shape, _KINDS[self.dtype])
        self._room, self._address = onednn.aligned(onednn.bytes_of(self._layout))
        matrix = _readable(matrix)
        if matrix.dtype != self.dtype:  # first: oneDNN takes twice as long to do both in one
            by_columns = layout(matrix)[0] == TRANSPOSE
            matrix = to_bfloat16(matrix.T).T if by_columns else to_bfloat16(matrix)
        packing = _prepared("pack", [_shape(matrix)], packed=self._layout, packed_kind=self.dtype)
        packing.run(matrix.ctypes.data, self._address)

    def multiply(self, x: np.ndarray, out: np.ndarray | None = None, add: bool = False) -> np.ndarray:
        """Return `x` [M,K] times the matrix as float32, written to `out` [M,N] if given, or added to it.

        `x` has the matrix's type, or is float32 and rounded to bfloat16. Its rows or columns are contiguous.
        """
        if out is None:
            out = np.empty((len(x), self.shape[1]), np.float32)
        if x.dtype != self.dtype:
            x = to_bfloat16(x)
        known = _known()
        for rows in _parts(len(x), again=not add):
            part, product = x[rows], out[rows]
            # Shorter than the key of `_prepared`, which takes as long as the product of a few rows.
            key = self.shape, self.dtype, part.shape[0], part.strides, product.strides[0], add
            if key not in known:
                shapes = [_shape(part), _shape(product)]
                known[key] = _prepared("packed", shapes, add, self._layout, self.shape)
            known[key].run(part.ctypes.data, product.ctypes.data, self._address)
        return out

    def multiply_gelu(self, x: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
        """Write gelu of `x` [M,K] times the matrix plus `bias` [N] to `out` [M,N], as float32.

        The product stays in the cache until it is done. The error of gelu is at most 4e-7 of its argument.
        """
        bias = bias[None]
        for rows in _parts(len(x)):
            part, product = x[rows], out[rows]
            shapes = [_shape(part), _shape(product), _shape(bias)]
            prepared = _prepared("gelu", shapes, packed=self._layout, packed_kind=self.shape)
            prepared.run(part.ctypes.data, product.ctypes.data, self._address, bias.ctypes.data)


@functools.lru_cache(_MOST_SHAPES)
def _packed_layout(shape: tuple[int, int], kind: int) -> onednn.Layout:
    """Return the layout [K,N] in which oneDNN multiplies by a matrix fastest."""
    depth, width = shape
    probe = onednn.Primitive(
        onednn.describe((_STEP, depth), kind, (depth, 1)),
        onednn.describe((_STEP, width), onednn.FLOAT32, (width, 1)),
        onednn.describe(shape, kind),
    )
    return onednn.copy_of(probe.weights)


class _Prepared:
    """A primitive with its memory objects, for one thread."""

    def __init__(
        self,
        primitive: onednn.Primitive,
        source: onednn.Layout,
        destination: onednn.Layout,
        weights: onednn.Layout | None = None,
        bias: onednn.Layout | None = None,
    ) -> None:
        self._room, scratch = onednn.aligned(onednn.bytes_of(primitive.scratchpad))
        parts = {onednn.SOURCE: source, onednn.DESTINATION: destination}
        parts |= {onednn.WEIGHTS: weights, onednn.BIAS: bias}
        self._memories = [onednn.memory(layout) for layout in parts.values() if layout is not None]
        numbers = [number for number, layout in parts.items() if layout is not None]
        scratchpad = onednn.memory(primitive.scratchpad, scratch)
        self._kept = scratchpad
        arguments = [
            onednn.Argument(number, memory.pointer)
            for number, memory in zip(numbers, self._memories, strict=True)
        ]
        arguments.append(onednn.Argument(onednn.SCRATCHPAD, scratchpad.pointer))
        self._run = functools.partial(primitive.run, (onednn.Argument * len(arguments))(*arguments))

    def run(self, *addresses: int) -> None:
        """Run on the source, the destination, the weights and the bias at `addresses`."""
        put = onednn.address_setter()
        for memory, address in zip(self._memories, addresses, strict=True):
            put(memory, address)
        self._run()


_of_thread = threading.local()


def _known() -> dict[Hashable, _Prepared]:
    """Return what the calling thread has prepared, of which it forgets all when that becomes too much."""
    known: dict[Hashable, _Prepared] = _of_thread.__dict__.setdefault("known", {})
    if len(known) >= _MOST_SHAPES:
        known.clear()
    return known


def _prepared(
    name: str,
    shapes: Sequence[tuple],
    add: float = 0,
    packed: onednn.Layout | None = None,
    packed_kind: Hashable = None,
) -> _Prepared:
    """Return the calling thread's primitive `name` for matrices of these shapes.

    A "product" multiplies two matrices, "packed" multiplies by one that lies as `packed`, for which
    `packed_kind` stands, and "gelu" goes on with a bias, whose shape comes last; "pack" copies into that
    layout, "copy" into that of a matrix.
    """
    known = _known()
    key = name, tuple(shapes), add, packed_kind
    if key not in known:
        made = [onednn.describe(*shape) for shape in shapes]
        bias = made.pop() if name == "gelu" else None
        source, destination = made[0], packed if name == "pack" else made[-1]
        weights = packed if name in ("packed", "gelu") else made[1] if name == "product" else None
        primitive = onednn.Primitive(source, destination, weights, add, bias)
        known[key] = _Prepared(primitive, source, destination, weights, bias)
    return known[key]


def _shape(matrix: np.ndarray) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Return the shape, the kind and the strides, in numbers, with which oneDNN reads a matrix."""
    order, leading = layout(matrix)
    return matrix.shape, _KINDS[matrix.dtype], (1, leading) if order == TRANSPOSE else (leading, 1)


def _readable(matrix: np.ndarray) -> np.ndarray:
    """Return a vector in one piece: oneDNN 3.6 takes a strided one for a row that is not strided."""
    return np.ascontiguousarray(matrix) if 1 in matrix.shape else matrix


def _parts(count: int, again: bool = True) -> list[slice]:
    """Cut `count` rows into parts of few sizes; the last may have rows of the one before `again`."""
    if count <= _EXACT:
        return [slice(0, count)]
    whole = count // _STEP * _STEP
    rest = slice(count - _STEP if again else whole, count)
    return [slice(0, whole), rest] if whole < count else [slice(0, whole)]
