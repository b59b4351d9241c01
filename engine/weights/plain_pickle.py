"""Unpickles plain things alone: containers, numbers, texts, options and arrays; nothing is run.

A pickle is a program. This unpickler admits dicts, lists, tuples, sets, numbers, texts, `OrderedDict`,
arrays and numbers of NumPy, and objects of named classes such as `argparse.Namespace`, which become dicts.
Any other name is an error that tells it, and no object but these takes a state. Texts of Python 2 are read as
UTF-8, and stay bytes where they are none.
"""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from config.errors import cut

# The errors that reading a damaged or hostile file may raise.
FAILURES = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def reason_of(error: Exception) -> str:
    """Return why a file could not be read, for a message, from one of `FAILURES`."""
    kind = type(error).__name__
    damaged = isinstance(error, LookupError | AttributeError | TypeError | EOFError) or not str(error)
    return f"it is cut short or damaged ({kind})" if damaged else cut(error, 160)


Admitted = dict[tuple[str, str], object]


class PlainObject(dict):
    """An object of a class that is not run, as the dict of its attributes."""

    def __init__(self, *_: object) -> None:
        super().__init__()


@dataclass(frozen=True)
class Marker:
    """A name that is admitted as an argument; it cannot be called."""

    name: str


_TYPE_CODE = re.compile(r"[<>=|]?[a-zA-Z]\d{0,3}")


@dataclass
class NumberType:
    """NumPy's type of numbers, whose state sets the byte order."""

    dtype: np.dtype


class PlainArray:
    """An array of NumPy while its state is awaited."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0)


def _number_type(code: str, *_: object) -> NumberType:
    if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):  # NumPy parses other texts as Python
        raise pickle.UnpicklingError("numbers of a type that is none")
    found = np.dtype(code)
    if found.kind not in "fiub":
        raise pickle.UnpicklingError(f"numbers of type {found}")
    return NumberType(found)


def _scalar(number_type: NumberType, content: object) -> bool | int | float:
    return np.frombuffer(_as_bytes(content), number_type.dtype)[0].item()


def _new_object(kind: object, *_: object) -> PlainObject:
    """Return an object as `copyreg._reconstructor` does in protocols 0 and 1."""
    if not isinstance(kind, type) or not issubclass(kind, PlainObject):
        raise pickle.UnpicklingError("it makes an object of another class")
    return kind()


def _latin_bytes(text: str, encoding: str) -> bytes:
    """Return bytes that Python 3 wrote in protocol 2 as a text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_PLAIN: Admitted = {
    ("argparse", "Namespace"): PlainObject,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): PlainObject,
    ("_codecs", "encode"): _latin_bytes,
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{
        (module, name): value
        for module in ("__builtin__", "builtins")
        for name, value in {
            "object": Marker("object"),
            "set": set,
            "frozenset": frozenset,
            "tuple": tuple,
            **{number: Marker(number) for number in ("int", "float", "list", "dict", "str", "bool", "long")},
        }.items()
    },
    ("numpy", "ndarray"): Marker("ndarray"),
    ("numpy", "dtype"): _number_type,
    **{
        (f"numpy.{core}.multiarray", name): value
        for core in ("core", "_core")
        for name, value in {"_reconstruct": PlainArray, "scalar": _scalar}.items()
    },
}


class PlainUnpickler(pickle._Unpickler):
    """An unpickler of plain things and of what `admitted` maps from module and name.

    It extends the unpickler in Python: the one in C allocates as much memory as a damaged file asks for.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, admitted: Admitted, persistent: Callable | None = None) -> None:
        super().__init__(file)
        self._admitted = _PLAIN | admitted
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return self._admitted[module, name]

    def persistent_load(self, identifier: object) -> object:
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to things outside of it")
        return self._persistent(identifier)

    def _decode_string(self, value: bytes) -> str | bytes:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value

    def load_build(self) -> None:
        state, thing = self.stack.pop(), self.stack[-1]
        if isinstance(thing, PlainObject):
            attributes = state[1] if isinstance(state, tuple) else state
            thing.update(attributes or {})
        elif isinstance(thing, PlainArray):
            thing.array = _array_of_state(state)
        elif isinstance(thing, NumberType):
            if state[1] in ("<", ">"):
                thing.dtype = thing.dtype.newbyteorder(state[1])
        elif not isinstance(thing, OrderedDict):  # torch's state dicts carry metadata
            raise pickle.UnpicklingError(f"it sets the state of a {type(thing).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds buffers outside of it, or bytes that can change")

    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.NEXT_BUFFER[0]] = _refuse


def _array_of_state(state: tuple) -> np.ndarray:
    _, shape, number_type, by_columns, content = state
    if not isinstance(number_type, NumberType):
        raise pickle.UnpicklingError("an array of no numbers")
    array = np.frombuffer(_as_bytes(content), number_type.dtype)
    return array.reshape(shape, order="F" if by_columns else "C")


def _as_bytes(content: object) -> bytes:
    """Return the content of an array; a text of Python 2 that happened to be UTF-8 is encoded again."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8")
    raise pickle.UnpicklingError("an array of objects")


def with_arrays(content: object) -> object:
    """Return nested containers with each `PlainArray` replaced by its array.

    Raises RecursionError for containers that are too deep, or hold themselves.
    """
    made: dict[int, object] = {}  # containers that several others hold are made once

    def replace(thing: object) -> object:
        if isinstance(thing, PlainArray):
            return thing.array
        if not isinstance(thing, dict | list | tuple):
            return thing
        if id(thing) not in made:
            if isinstance(thing, dict):
                made[id(thing)] = {key: replace(value) for key, value in thing.items()}
            else:
                made[id(thing)] = type(thing)(replace(value) for value in thing)
        return made[id(thing)]

    return replace(content)
