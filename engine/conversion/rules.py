"""How a tensor of ours is made of those of an original, and theirs of ours again, bit for bit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, some
from engine.weights.state_dicts import Tensors
from engine.weights.stored import StoredTensor

_TILE = 64, 512  # rows and columns that are transposed at a time, in the cache


@dataclass(frozen=True)
class Rule:
    """Our tensor `ours` and the original's that it is made of.

    Several of `theirs` are joined by rows. `columns` are those of the original's that ours has; other rules
    have the rest. `transposed` says that ours is [in,out] where the original's is [out,in]; a convolution of
    one pixel, [out,in,1], counts as such a matrix.
    """

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    columns: tuple[int, int] | None = None

    def layout(self) -> str:
        """Return how the layout changes, in words."""
        changes = [
            "joined" if len(self.theirs) > 1 else "",
            "columns {}:{}".format(*self.columns) if self.columns else "",
            "transposed" if self.transposed else "",
        ]
        return ", ".join(filter(None, changes))


def same(name: str, ours: str) -> Rule:
    """Return the rule of a tensor that only changes its name."""
    return Rule(ours, (name,))


def linear(name: str, ours: str) -> list[Rule]:
    """Return the rules of a linear layer with a bias; both names are those of the layer."""
    return [
        Rule(f"{ours}.weight", (f"{name}.weight",), transposed=True),
        Rule(f"{ours}.bias", (f"{name}.bias",)),
    ]


def converted(rule: Rule, tensors: Tensors, path: Path) -> StoredTensor:
    """Return our tensor, made of the original's `tensors` when it is asked for, in float32.

    Its `load` raises UserError, which names `path`, for numbers that are not finite.
    """
    shape = list(tensors[rule.theirs[0]].shape)
    if rule.transposed:
        shape = shape[:2]
    shape[:1] = [sum(tensors[name].shape[0] for name in rule.theirs)] if len(rule.theirs) > 1 else shape[:1]
    if rule.columns:
        shape[1] = rule.columns[1] - rule.columns[0]

    def load() -> np.ndarray:
        parts = (_finite(name, tensors[name].read(), path) for name in rule.theirs)
        if rule.transposed:
            parts = (part.reshape(part.shape[:2]) for part in parts)
        if rule.columns:
            parts = (part[:, slice(*rule.columns)] for part in parts)
        if rule.transposed:
            parts = (transposed(part) for part in parts)
        joined = list(parts)
        return joined[0] if len(joined) == 1 else np.concatenate(joined, axis=1 if rule.transposed else 0)

    return StoredTensor(tuple(reversed(shape) if rule.transposed else shape), "float32", load)


def original(name: str, rules: Iterable[Rule], arrays: Tensors, shape: tuple[int, ...]) -> np.ndarray:
    """Return the original's tensor `name` [`shape`], made of ours, the inverse of `converted`."""
    pieces = {}
    for rule in rules:
        array = arrays[rule.ours].load()
        array = array.T if rule.transposed else array
        if len(rule.theirs) > 1:
            array = np.split(array, len(rule.theirs))[rule.theirs.index(name)]
        pieces[rule.columns or (0, 0)] = array
    joined = [pieces[columns] for columns in sorted(pieces)]
    array = np.concatenate(joined, axis=1) if len(joined) > 1 else joined[0]
    return (
        transposed(array.T).reshape(shape) if array.ndim == 2 else np.ascontiguousarray(array).reshape(shape)
    )


def transposed(array: np.ndarray) -> np.ndarray:
    """Return the transpose of a matrix in C order, made in tiles that stay in the cache."""
    if array.T.flags.c_contiguous:
        return array.T
    result = np.empty(array.shape[::-1], array.dtype)
    rows, columns = _TILE
    for row in range(0, array.shape[0], rows):
        for column in range(0, array.shape[1], columns):
            tile = array[row : row + rows, column : column + columns]
            result[column : column + columns, row : row + rows] = tile.T
    return result


def check_tensors(path: Path, tensors: Tensors, expected: dict[str, tuple[int, ...]], what: str) -> None:
    """Raise UserError unless `tensors` are those `expected`, by name and shape, of floating-point numbers."""
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise UserError(
            f"{path}: no tensor {missing[0]} ({len(missing)} of {len(expected)} are missing), which {what} "
            f"has; it holds {some(list(tensors), 3)}"
        )
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise UserError(
            f"{path}: unexpected tensor {unexpected[0]} ({len(unexpected)} of {len(tensors)} are), which "
            f"{what} has no place for: is it of another model?"
        )
    for name, shape in expected.items():
        found = tensors[name]
        if found.shape != tuple(shape):
            raise UserError(
                f"{path}: tensor {name} is {list(found.shape)}, its other tensors make it {list(shape)}"
            )
        if not found.is_float:
            raise UserError(f"{path}: tensor {name} holds {found.kind}, expected floating-point numbers")


def shape_of(path: Path, tensors: Tensors, name: str, axes: int, what: str) -> tuple[int, ...]:
    """Return the shape of a tensor with so many axes; raise UserError if it is missing or has others."""
    if name not in tensors:
        raise UserError(f"{path}: no tensor {name}, which {what} has; it holds {some(list(tensors), 3)}")
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise UserError(f"{path}: tensor {name} is {list(shape)}, expected {axes} axes")
    return shape


def numbers_of(shape: Iterable[int]) -> int:
    """Return the number of numbers in a tensor."""
    return math.prod(shape)


def _finite(name: str, array: np.ndarray, path: Path) -> np.ndarray:
    # The extremes are NaN where any number is, and take no memory.
    if array.size and not (np.isfinite(array.max()) and np.isfinite(array.min())):
        raise UserError(f"{path}: tensor {name} has values that are not finite numbers")
    return array if array.dtype == np.float32 else array.astype(np.float32)
