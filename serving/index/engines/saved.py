"""What is saved of an engine, and the check of its file."""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.index.vectors import damaged

_WORD = np.uint64


@dataclass(frozen=True)
class Saved:
    """What is saved of an engine: its name, its file's check, how many rows it holds, and its parameters."""

    name: str
    rows: int
    check: int
    parameters: dict


def file_check(path: Path) -> int:
    """Return a check of a file: the exclusive or of its words of 64 bits and of its size."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        contents = np.frombuffer(content, np.uint8)
        check = contents_check(contents) ^ contents.size
        del contents  # before what it reads is closed
        return check


def contents_check(contents: np.ndarray) -> int:
    """Return the exclusive or of words of 64 bits in bytes [n]; fewer bytes at the end count as a word."""
    whole = contents.size // 8 * 8
    check = int(np.bitwise_xor.reduce(contents[:whole].view(_WORD)))
    return check ^ int.from_bytes(contents[whole:].tobytes(), "little")


def check_file(path: Path, saved: Saved) -> None:
    """Raise UserError unless the file is what `saved` says."""
    try:
        if not os.path.getsize(path) or file_check(path) != saved.check:
            raise damaged(path, "its contents are not what was written")
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
