"""A tensor in a file: its shape and type are known at once, its numbers are read when they are asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

WIDENED = ("float16", "bfloat16")  # the kinds whose numbers become float32, each exactly


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of `shape` and `kind`, a name such as float32 or bfloat16.

    `load` returns its numbers as they are stored; those of bfloat16, which NumPy lacks, as uint16.
    """

    shape: tuple[int, ...]
    kind: str
    load: Callable[[], np.ndarray]

    @property
    def is_float(self) -> bool:
        """Tell whether the numbers are floating-point."""
        return "float" in self.kind

    def read(self) -> np.ndarray:
        """Return the numbers; half precision and bfloat16 are widened to float32, exactly."""
        return widen(self.load(), self.kind)


def widen(array: np.ndarray, kind: str) -> np.ndarray:
    """Return stored numbers of `kind`; those of half precision and bfloat16 as float32, exactly."""
    if kind == "bfloat16":  # the upper half of a float32
        return (np.asarray(array, dtype="<u2").astype("<u4") << 16).view("<f4")
    if kind == "float16":
        return array.astype(np.float32)
    return array


def narrow(array: np.ndarray, kind: str) -> np.ndarray:
    """Return float32 numbers as they are stored in `kind`, the inverse of `widen`.

    Raises ValueError if `kind` cannot hold one of them.
    """
    if kind not in WIDENED:
        return array
    narrowed = array.astype(np.float16)
    if kind == "bfloat16":
        narrowed = (np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16).astype("<u2")
    if widen(narrowed, kind).tobytes() != np.ascontiguousarray(array, dtype=np.float32).tobytes():
        raise ValueError(f"{kind} cannot hold all of its numbers")
    return narrowed


def stored(array: np.ndarray, kind: str = "") -> StoredTensor:
    """Return an array in memory as a stored tensor; `kind` is its type's name if not given."""
    return StoredTensor(array.shape, kind or array.dtype.name, lambda: array)


def turned(tensor: StoredTensor) -> StoredTensor:
    """Return the transpose of a stored matrix."""
    return StoredTensor(tensor.shape[::-1], tensor.kind, lambda: tensor.load().T)


def stored_tensors(content: object) -> Iterator[StoredTensor]:
    """Yield each tensor in nested dicts, lists, tuples and sets once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        thing = waiting.pop()
        if not isinstance(thing, StoredTensor | dict | list | tuple | set) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, StoredTensor):
            yield thing
        else:
            waiting += thing.values() if isinstance(thing, dict) else thing
