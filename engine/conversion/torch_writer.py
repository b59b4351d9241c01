"""Writes files that torch.load reads, without torch: its zip, with a plain pickle that is emitted here."""

import math
import struct
import zipfile
from pathlib import Path

import numpy as np

from engine.weights.plain_pickle import PlainObject
from engine.weights.stored import StoredTensor
from engine.weights.torch_files import KINDS

_FOLDER = "archive/"
_ALIGNED = 64  # bytes: torch begins each storage at a multiple of it
_STORAGES = {kind: name for name, kind in KINDS.items()}
_MARK, _TUPLE, _REDUCE, _SET_ITEMS = b"(", b"t", b"R", b"u"


def write_torch_file(path: Path, content: object) -> None:
    """Write nested dicts, lists, tuples, texts, numbers, `PlainObject`s (as Namespaces) and stored tensors.

    `load` of a tensor must return its numbers as its kind stores them. Tensors are written one by one. Raises
    OSError if the disk refuses, and TypeError for any other content.
    """
    tensors: list[StoredTensor] = []
    program = b"\x80\x02" + _emitted(content, tensors) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        _write(archive, "data.pkl", program)
        _write(archive, "byteorder", b"little")
        for number, tensor in enumerate(tensors):
            _write(archive, f"data/{number}", np.ascontiguousarray(tensor.load()).reshape(-1).view(np.uint8))
        _write(archive, "version", b"3\n")


def emit_pickle(content: object) -> bytes:
    """Return plain content, without tensors, as a pickle of protocol 2; raise TypeError for anything else."""
    return b"\x80\x02" + _emitted(content, None) + b"."


def _write(archive: zipfile.ZipFile, name: str, content: bytes | np.ndarray) -> None:
    info = zipfile.ZipInfo(_FOLDER + name)
    info.file_size = len(content)
    start = (
        archive.fp.tell() + 30 + len(info.filename) + 4
    )  # the entry's header, its name, and the padding's own
    padding = -start % _ALIGNED
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(content)


def _emitted(thing: object, tensors: list[StoredTensor] | None) -> bytes:
    """Return the opcodes that make `thing`; append the tensors that they refer to."""
    if thing is None or thing is True or thing is False:
        return {None: b"N", True: b"\x88", False: b"\x89"}[thing]
    if isinstance(thing, int):
        return _integer(thing)
    if isinstance(thing, float):
        return b"G" + struct.pack(">d", thing)
    if isinstance(thing, str):
        encoded = thing.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if isinstance(thing, StoredTensor) and tensors is not None:
        return _tensor(thing, tensors)
    if isinstance(thing, PlainObject):
        return b"cargparse\nNamespace\n)\x81" + _items(b"}", thing, tensors) + b"b"
    if isinstance(thing, dict):
        holds_tensors = any(isinstance(value, StoredTensor) for value in thing.values())
        empty = b"ccollections\nOrderedDict\n)R" if holds_tensors else b"}"
        return _items(empty, thing, tensors)
    if isinstance(thing, list | tuple):
        inner = b"".join(_emitted(value, tensors) for value in thing)
        return _MARK + inner + _TUPLE if isinstance(thing, tuple) else b"](" + inner + b"e"
    raise TypeError(f"a {type(thing).__name__} has no place in a file of weights")


def _items(empty: bytes, thing: dict, tensors: list[StoredTensor] | None) -> bytes:
    inner = b"".join(_emitted(key, tensors) + _emitted(value, tensors) for key, value in thing.items())
    return empty + _MARK + inner + _SET_ITEMS


def _integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _tensor(tensor: StoredTensor, tensors: list[StoredTensor]) -> bytes:
    """Return the opcodes of a tensor over a storage of its own, in C order."""
    count = math.prod(tensor.shape)
    steps = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    kind = f"ctorch\n{_STORAGES[tensor.kind]}\n".encode()
    storage = _MARK + _emitted("storage", None) + kind + _emitted(str(len(tensors)), None)
    storage += _emitted("cpu", None) + _integer(count) + _TUPLE + b"Q"
    tensors.append(tensor)
    view = storage + _integer(0) + _emitted(tensor.shape, None) + _emitted(tuple(steps), None)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"\x89ccollections\nOrderedDict\n)RtR"
