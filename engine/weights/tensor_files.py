"""Reads and writes files of tensors by name, in the format of safetensors.

The functions import the library, so that tools start and show their help without it.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from config.errors import UserError, cut
from config.files.kinds import mistaken_kind
from config.progress import ShowProgress, no_progress
from engine.weights.stored import StoredTensor

_PIECE = 1 << 20  # bytes
_KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def save_safetensors(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays of any memory layout, with `metadata`; raise OSError if the disk refuses.

    safetensors 0.8.0 writes the memory of an array as if it were in C order, so that without a copy it would
    write wrong values for `x.T`, a slice or Fortran order, without an error.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(in_order, path, metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error)) from error
    path.chmod(mode)  # the library makes its files private


def read_safetensors(
    path: Path, problem: str = "cannot be read as safetensors", remedy: str = ""
) -> dict[str, np.ndarray]:
    """Return the arrays of a file; bfloat16, which NumPy lacks, is widened to float32, exactly.

    Raises UserError, `PATH: PROBLEM (reason)REMEDY`, if that fails.
    """
    tensors = open_safetensors(path, problem, remedy)
    return {
        name: tensor.load() if tensor.kind != "bfloat16" else tensor.read()
        for name, tensor in tensors.items()
    }


def open_safetensors(
    path: Path, problem: str = "cannot be read as safetensors", remedy: str = ""
) -> dict[str, StoredTensor]:
    """Return the tensors of a file, which are read when they are asked for; raise as `read_safetensors`."""
    from safetensors import safe_open

    path = Path(path)
    with _refused(path, problem, remedy), safe_open(path, "np"), open(path, "rb") as file:
        # The library has checked the header. It reads no bfloat16 into NumPy.
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _stored(path, 8 + length, entry) for name, entry in header.items()}


def _stored(path: Path, base: int, entry: dict) -> StoredTensor:
    if entry["dtype"] not in _KINDS:
        raise TypeError(f"numbers of type {entry['dtype']}")
    kind, shape = _KINDS[entry["dtype"]], tuple(entry["shape"])
    dtype = np.dtype("uint16" if kind == "bfloat16" else kind)

    def load() -> np.ndarray:
        try:
            array = np.fromfile(path, dtype, math.prod(shape), offset=base + entry["data_offsets"][0])
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        if array.size != math.prod(shape):
            raise UserError(f"{path}: it ends within a tensor: it shrank while it was read")
        return array.reshape(shape)

    return StoredTensor(shape, kind, load)


def stream_safetensors(
    path: Path, tensors: dict[str, StoredTensor], show: ShowProgress | None = None
) -> dict[str, int | str]:
    """Write tensors one by one, so that a few of them are in memory at a time; return `bytes` and `sha256`.

    The library needs all of them at once. While one is written, another is hashed and the next is made, each
    by a thread. Raises OSError if the disk refuses.
    """
    show = show or no_progress
    header, names, end = {}, list(tensors), 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * np.dtype(tensor.kind).itemsize
        kind = next(code for code, kind in _KINDS.items() if kind == tensor.kind)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest, written = hashlib.sha256(), 0

    def made(name: str) -> np.ndarray:
        array = np.ascontiguousarray(tensors[name].load()).astype(tensors[name].kind, copy=False)
        assert array.shape == tensors[name].shape or array.size == 1, name
        return array.reshape(-1)

    with open(path, "wb") as file, ThreadPoolExecutor(1) as maker, ThreadPoolExecutor(2) as hasher:
        head = len(text).to_bytes(8, "little") + text
        file.write(head)
        hashed = hasher.submit(digest.update, head)
        synced = hasher.submit(file.flush)
        coming = maker.submit(made, names[0]) if names else None
        for number, _ in enumerate(names, 1):
            array = coming.result()
            coming = maker.submit(made, names[number]) if number < len(names) else None
            hashed.result()
            hashed = hasher.submit(digest.update, array)
            _write_in_pieces(file, array)
            if synced.done():  # the disk works while the next tensors are made
                synced = hasher.submit(os.fsync, file.fileno())
            written += array.nbytes
            show("weights", written, end)
        hashed.result(), synced.result()
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def read_metadata(
    path: Path, problem: str = "cannot be read as safetensors", remedy: str = ""
) -> dict[str, str]:
    """Return the metadata of a file without reading arrays; raise UserError as `read_safetensors` does."""
    from safetensors import safe_open

    with _refused(path, problem, remedy), safe_open(path, "np") as file:
        return file.metadata() or {}


def _write_in_pieces(file: BinaryIO, array: np.ndarray) -> None:
    """Write the bytes of an array, not all at once: looking for large pages took Linux ten times as long."""
    content = memoryview(array).cast("B") if array.size else b""
    for start in range(0, len(content), _PIECE):
        file.write(content[start : start + _PIECE])


@contextlib.contextmanager
def _refused(path: Path, problem: str, remedy: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:  # the last: a strange header
        raise UserError(f"{path}: {problem} ({mistaken_kind(path) or cut(error, 120)}){remedy}") from error
