"""Reads files of torch.save without torch: the zip of torch 1.6 and later, and the stream of 0.2 to 1.5.

A zip holds a pickle `NAME/data.pkl`, and the bytes of each storage in `NAME/data/KEY`. A stream holds a magic
number, the protocol, facts about the machine, the pickle, the keys of all storages, and their numbers.
Tensors are views of storages, which several may share. They are read when they are asked for.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from config.errors import UserError
from config.files.kinds import is_zip, mistaken_kind, refusal
from engine.weights.plain_pickle import FAILURES, Admitted, Marker, PlainUnpickler, reason_of, with_arrays
from engine.weights.stored import StoredTensor, stored_tensors

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
KINDS = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_MODULES = ("torch", "torch.cuda", "torch.storage")
_MOST_SHARED = 8  # tensors that share storages hold at most so many times the numbers of the file


@dataclass
class _Storage:
    """The numbers of one storage: `count` of `kind`; `start` and `checksum` are known once they are found."""

    path: Path
    key: str
    kind: str
    count: int
    start: int | None = None
    checksum: int | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("uint16" if self.kind == "bfloat16" else self.kind).newbyteorder("<")

    def read(self, offset: int, count: int) -> np.ndarray:
        """Return `count` numbers from `offset`; a whole storage in a zip is compared with its checksum."""
        array = np.empty(count, self.dtype)
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start + offset * array.itemsize)
                if file.readinto(array) != array.nbytes:
                    raise UserError(f"{self.path}: it ends within storage {self.key}: download it again")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if self.checksum is not None and count == self.count and zlib.crc32(array) != self.checksum:
            raise UserError(
                f"{self.path}: storage {self.key} is damaged: its checksum differs: download it again"
            )
        return array


def open_torch_file(path: Path) -> object:
    """Return the content of `path`, with tensors as `StoredTensor`s, whose numbers are still in the file.

    Raises UserError for a file that cannot be read, is damaged, or holds anything but plain things and
    tensors.
    """
    try:
        if is_zip(path):
            content = _read_zip(path)
        else:
            content = _read_stream(path)
        content = with_arrays(content)
        _check_sizes(content, path.stat().st_size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FAILURES as error:
        otherwise = f"not a file of plain containers and tensors from torch: {reason_of(error)}"
        raise UserError(refusal(path, otherwise)) from error
    return content


def read_torch_file(path: Path) -> object:
    """Return the content of `path`, with tensors as arrays; halves and bfloat16 are widened to float32.

    Raises UserError as `open_torch_file` does.
    """
    arrays: dict[int, np.ndarray] = {}

    def loaded(thing: object) -> object:
        if isinstance(thing, StoredTensor):
            return arrays.setdefault(id(thing), thing.read())
        if isinstance(thing, dict):
            return {key: loaded(value) for key, value in thing.items()}
        if isinstance(thing, list | tuple):
            return type(thing)(loaded(value) for value in thing)
        return thing

    return loaded(open_torch_file(path))


def _check_sizes(content: object, size: int) -> None:
    """Refuse tensors that together hold far more than the file, as views that share a storage can."""
    total = sum(
        math.prod(tensor.shape) * (2 if tensor.kind == "bfloat16" else np.dtype(tensor.kind).itemsize)
        for tensor in stored_tensors(content)
    )
    if total > _MOST_SHARED * size:
        raise ValueError(f"its tensors would take {total / 1e6:,.0f} MB, the file has {size / 1e6:,.0f} MB")


class _Storages:
    """The storages that a pickle refers to, by key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.found: dict[str, _Storage] = {}

    def admitted(self) -> Admitted:
        """Return torch's names that a file may ask for."""
        kinds = {(module, name): Marker(kind) for module in _MODULES for name, kind in KINDS.items()}
        return kinds | {
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
            ("torch", "Size"): tuple,
            ("torch", "Tensor"): Marker("Tensor"),
            ("torch.nn.parameter", "Parameter"): Marker("Tensor"),
            ("torch", "device"): lambda *place: ":".join(map(str, place)),
        }

    def persistent(self, identifier: tuple) -> "_View":
        """Return the storage that a pickle refers to, or a part of it, as torch before 0.4 has them."""
        kind, storage_type, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(storage_type, Marker):
            raise pickle.UnpicklingError(f"it asks for a {str(kind)[:40]!r}, expected a storage")
        count, key = int(count), str(key)
        storage = self.found.setdefault(key, _Storage(self.path, key, storage_type.name, count))
        if storage.kind != storage_type.name or storage.count != count:
            raise ValueError(
                f"storage {key} is {storage.count} {storage.kind}, and {count} {storage_type.name}"
            )
        if not 0 <= count * storage.dtype.itemsize <= self.size:
            raise ValueError(f"storage {key} would have {count} numbers, more than the file")
        if not view or view[0] is None:
            return _View(storage, 0, count)
        _, start, length = view[0]
        if not 0 <= start <= start + length <= count:
            raise ValueError(f"storage {key} has {count} numbers, a view of it goes to {start + length}")
        return _View(storage, start, length)


@dataclass(frozen=True)
class _View:
    """A run of a storage's numbers."""

    storage: _Storage
    start: int
    length: int


def _rebuild_tensor(view: _View, offset: int, size: tuple, stride: tuple, *_: object) -> StoredTensor:
    """Return a view of a storage as a tensor; gradients and hooks are ignored."""
    if not isinstance(view, _View) or len(size) != len(stride) or len(size) > 32:
        raise pickle.UnpicklingError("a tensor without a storage, or of no shape")
    if min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride} at {offset}")
    numbers = math.prod(size)
    span = 1 + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) if numbers else 0
    if offset + span > view.length:
        raise pickle.UnpicklingError(f"a tensor of size {size} reaches beyond its {view.length} numbers")
    if numbers > view.length:  # with strides of 0, a few bytes would become any number of them
        raise pickle.UnpicklingError(f"a tensor of size {size} from {view.length} numbers")
    storage, first, shape = view.storage, view.start + offset, tuple(map(int, size))

    def load() -> np.ndarray:
        run = storage.read(first, span)
        return (
            as_strided(run, shape, [step * run.itemsize for step in stride])
            if numbers
            else run.reshape(shape)
        )

    return StoredTensor(shape, storage.kind, load)


def _rebuild_from_type(rebuild: object, _: object, arguments: tuple, __: object) -> StoredTensor:
    if rebuild is not _rebuild_tensor:
        raise pickle.UnpicklingError("a tensor of a type of its own")
    return _rebuild_tensor(*arguments)


def _read_zip(path: Path) -> object:
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        parts = {info.filename: info for info in archive.infolist()}
        total, size = sum(info.file_size for info in parts.values()), path.stat().st_size
        if total > size:  # torch packs nothing
            raise ValueError(
                f"it unpacks to {total / 1e6:,.1f} MB from {size / 1e6:,.1f} MB, which torch never writes"
            )
        pickles = [name for name in parts if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip without NAME/data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "byteorder" in parts and archive.read(folder + "byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        storages = _Storages(path)
        unpickler = PlainUnpickler(
            io.BytesIO(archive.read(pickles[0])), storages.admitted(), storages.persistent
        )
        content = unpickler.load()
        for key, storage in storages.found.items():
            info = parts[f"{folder}data/{key}"]
            _place_in_zip(file, info, storage)
    return content


def _place_in_zip(file: io.BufferedReader, info: zipfile.ZipInfo, storage: _Storage) -> None:
    """Find a storage's first byte, behind the name and the padding of its entry in the zip."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"storage {storage.key} is packed or encrypted, which torch never writes")
    file.seek(info.header_offset)
    header = struct.unpack("<4s5H3L2H", file.read(30))
    if header[0] != b"PK\x03\x04":
        raise ValueError(f"storage {storage.key} is not where the zip says")
    expected, itemsize = storage.count * storage.dtype.itemsize, storage.dtype.itemsize
    if info.file_size != expected:
        rest = info.file_size % itemsize
        found = f"{info.file_size} bytes" if rest else f"{info.file_size // itemsize} numbers"
        raise ValueError(f"storage {storage.key} has {found}, expected {storage.count} numbers")
    storage.start, storage.checksum = info.header_offset + 30 + header[-2] + header[-1], info.CRC
    if storage.start + expected > file.seek(0, io.SEEK_END):
        raise ValueError(f"storage {storage.key} reaches beyond the end of the file")


def _read_stream(path: Path) -> object:
    storages, size = _Storages(path), path.stat().st_size
    with open(path, "rb") as file:

        def load() -> object:
            return PlainUnpickler(file, storages.admitted(), storages.persistent).load()

        if mistaken_kind(path) or load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
            raise ValueError("neither a zip nor a stream of torch 0.2 to 1.5")
        if not load()["little_endian"]:
            raise ValueError("its numbers are big-endian")
        content = load()
        waiting = dict(storages.found)
        for key in load():
            storage = waiting.pop(str(key))
            (count,) = struct.unpack("<q", file.read(8))
            storage.start = file.tell()
            end = storage.start + storage.count * storage.dtype.itemsize
            if count != storage.count or end > size:
                raise ValueError(f"storage {key} ends after {count} of {storage.count} numbers")
            file.seek(end)
        if waiting:
            raise ValueError(f"{len(waiting)} storages have no numbers")
    return content
