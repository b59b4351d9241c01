"""Reads files of torch.save and paddle.save without running code: plain containers and tensors alone.

A pickle is a program. This reader admits dicts, lists, tuples, sets, numbers, texts, `OrderedDict`,
`argparse.Namespace` and dense tensors of any device; any other name is an error. It reads the zip files of
torch 1.6 and later, the streams of earlier versions, and the weights of Paddle's models.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided

from config.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
NAMES_KEY = "StructuredToParameterName@@"  # this entry holds Paddle's own names for the arrays
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


@dataclass(frozen=True)
class StorageType:
    """The type of the numbers in a storage; unlike torch's class of that name, it cannot be called."""

    dtype: np.dtype


def read_torch_file(path: Path) -> object:
    """Return the content of `path`, with tensors as arrays.

    Raises UserError for a file that cannot be read, is damaged, or holds anything but containers and tensors.
    """
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _ZipReader(archive).read()
            file.seek(0)
            return _LegacyReader(file, path.stat().st_size).read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FAILURES as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a file of plain containers and tensors from torch: {reason}") from error


# Both unpicklers extend the one in Python: the one in C allocates as much memory as a damaged file asks for.


class _TorchUnpickler(pickle._Unpickler):
    """An unpickler that admits a few names of torch, and takes storages from its reader."""

    def __init__(self, file: BinaryIO, reader: "_ZipReader | _LegacyReader") -> None:
        super().__init__(file, encoding="utf-8")
        self._reader = reader

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in STORAGES:
            return StorageType(np.dtype(STORAGES[name]))
        admitted = {
            ("collections", "OrderedDict"): OrderedDict,
            ("argparse", "Namespace"): SimpleNamespace,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return admitted[module, name]

    def persistent_load(self, identifier: tuple) -> np.ndarray:
        kind, storage_type, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise pickle.UnpicklingError(f"it asks for a {kind!r}, expected a storage")
        storage = self._reader.storage(str(key), storage_type.dtype, int(count))
        if view and view[0] is not None:  # a part of a storage, from torch before 0.4
            _, start, length = view[0]
            storage = storage[start : start + length]
        return storage


def _rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    """Return a view of a storage as a tensor; gradients and hooks are ignored."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without a storage, or of no shape")
    if min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride} at {offset}")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage):
        raise pickle.UnpicklingError(f"a tensor of size {size} reaches beyond its {len(storage)} numbers")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    return data


class _ZipReader:
    """A reader of a zip with `NAME/data.pkl`, and each storage's bytes in `NAME/data/KEY`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._storages: dict[str, np.ndarray] = {}
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip without NAME/data.pkl")
        self._pickle, self._folder = pickles[0], pickles[0].removesuffix("data.pkl")

    def read(self) -> object:
        """Return the content."""
        order = self._folder + "byteorder"
        if order in self._archive.namelist() and self._archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")
        return _TorchUnpickler(io.BytesIO(self._archive.read(self._pickle)), self).load()

    def storage(self, key: str, dtype: np.dtype, count: int) -> np.ndarray:
        """Return a storage's numbers [count]."""
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
        found = self._storages[key]
        if len(found) != count or found.dtype != dtype:
            raise ValueError(f"storage {key} has {len(found)} numbers, expected {count}")
        return found


class _LegacyReader:
    """A reader of a stream: magic number, protocol, machine, content, keys of storages, their numbers."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._storages: dict[str, np.ndarray] = {}

    def read(self) -> object:
        """Return the content; the stream ends with the numbers, which fill the storages in place."""
        if self._load() != LEGACY_MAGIC or self._load() != LEGACY_PROTOCOL:
            raise ValueError("neither a zip nor a stream of torch 0.2 to 1.5")
        if not self._load()["little_endian"]:
            raise ValueError("its numbers are big-endian")
        content = self._load()
        for key in self._load():
            storage = self._storages[str(key)]
            (count,) = struct.unpack("<q", self._file.read(8))
            if count != len(storage) or self._file.readinto(storage) != storage.nbytes:
                raise ValueError(f"storage {key} ends after {count} of {len(storage)} numbers")
            del self._storages[str(key)]
        if self._storages:
            raise ValueError(f"{len(self._storages)} storages have no numbers")
        return content

    def storage(self, key: str, dtype: np.dtype, count: int) -> np.ndarray:
        """Return an array [count] for a storage's numbers, which `read` fills."""
        if key not in self._storages:
            if not 0 <= count * dtype.itemsize <= self._size:
                raise ValueError(f"storage {key} would have {count} numbers, more than the file")
            self._storages[key] = np.empty(count, dtype)
        return self._storages[key]

    def _load(self) -> object:
        return _TorchUnpickler(self._file, self).load()


def read_paddle_file(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of `path` (.pdparams) by name.

    Raises UserError for a file that cannot be read, is damaged, or holds anything but arrays.
    """
    try:
        with open(path, "rb") as file:
            content = _PaddleUnpickler(file).load()
        arrays = content.get("model", content)  # a checkpoint holds the epoch beside the model
        return {name: _array_of(value) for name, value in arrays.items() if name != NAMES_KEY}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FAILURES as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a file of arrays from Paddle: {reason}") from error


def _array_of(value: object) -> np.ndarray:
    """Return the array of an entry, which may be a pair of Paddle's own name and the array."""
    return np.asarray(value[1] if isinstance(value, tuple) else value)


class _PaddleUnpickler(pickle._Unpickler):
    """An unpickler that admits the names that NumPy's arrays need."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if name == "tuple" and module in ("builtins", "__builtin__"):
            return tuple
        if (module, name) == ("numpy", "dtype"):
            return _numeric_type
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")


def _numeric_type(code: str, *_: object) -> np.dtype:
    found = np.dtype(code)
    if found.kind not in "fiub":
        raise pickle.UnpicklingError(f"numbers of type {found}")
    return found


def _empty_array(*_: object) -> np.ndarray:
    """Return an empty array, whose content the pickle sets next."""
    return np.empty(0)
