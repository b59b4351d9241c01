"""Read plain arrays from .npy and .npz files; whatever else a file holds is a user's mistake."""

import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from config.errors import UserError, cut, some
from config.files.kinds import is_zip, mistaken_kind

# What NumPy raises for damaged files: headers are Python literals.
BROKEN_NPY = (
    *(ValueError, TypeError, KeyError, EOFError, SyntaxError, OverflowError, RecursionError, MemoryError),
    tokenize.TokenError,
)
# NumPy advises to save files of Python 2 again, such as VSE++'s features; nothing is wrong with them.
warnings.filterwarnings(
    "ignore", message=r"Reading `\.npy` or `\.npz` file required additional header parsing"
)

_DEFLATE = 1032  # the most that deflate packs into a byte


def read_npy(path: str | Path) -> np.ndarray:
    """Return the array of a .npy file; raise UserError for a file that is missing, damaged or another."""
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except BROKEN_NPY as error:
        raise not_npy(path, error) from error


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether the order is Fortran's, and the dtype of a .npy file that begins here.

    Raises one of `BROKEN_NPY` for anything else, a zip file included, which `numpy.load` would open.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def not_npy(path: str | Path, error: Exception) -> UserError:
    """Return what a user is told of a file that is no .npy file: what it is, if that is plain."""
    if kind := mistaken_kind(path):
        return UserError(f"{path}: {kind}")
    return UserError(f"{path} is not a .npy file ({cut(error, 80)}); write it with numpy.save")


def read_npz(path: Path, needed: Collection[str], remedy: str) -> dict[str, np.ndarray]:
    """Return all arrays of the .npz file at `path` by name.

    Raises UserError, which ends with `remedy`, for a file that is missing, damaged or of another kind, and
    for one that lacks one of the `needed` arrays.
    No array is made that the file does not hold.
    """
    try:
        with Path(path).open("rb") as file:
            kind = "" if file.read(2) == b"PK" else mistaken_kind(path)
        if not is_zip(path):
            raise UserError(f"{path}: {kind or 'not an .npz file'}: {remedy}")
        with zipfile.ZipFile(path) as archive:
            arrays = {
                entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in archive.infolist()
            }
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): {remedy}") from error
    except (*BROKEN_NPY, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a file of plain arrays ({cut(error, 80)}): {remedy}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path}: no array {missing[0]}, it holds {some(sorted(arrays)) or 'none'}: {remedy}")
    return arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of an entry; raise one of what `read_npz` catches, also where sizes disagree."""
    with archive.open(entry) as file:
        shape, _, dtype = read_npy_header(file)
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > min(entry.file_size, _DEFLATE * entry.compress_size):
            raise ValueError(f"{cut(entry.filename)} claims {claimed} bytes of {entry.file_size}")
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind == "U":  # NumPy makes texts of any numbers, and Python fails on them later
        letters = np.frombuffer(array.tobytes(), array.dtype.str[0] + "u4")
        if letters.max(initial=0) > 0x10FFFF:
            raise ValueError(f"{cut(entry.filename)} holds letters beyond Unicode")
    return array
