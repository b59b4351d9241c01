"""Reads and writes files of tensors by name, in the format of safetensors.

The functions import the library, so that tools start and show their help without it.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.errors import UserError


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
    """Return the arrays of a file; raise UserError, `PATH: PROBLEM (reason)REMEDY`, if that fails."""
    from safetensors.numpy import load_file

    with _refused(path, problem, remedy):
        return load_file(path)


def read_metadata(
    path: Path, problem: str = "cannot be read as safetensors", remedy: str = ""
) -> dict[str, str]:
    """Return the metadata of a file without reading arrays; raise UserError as `read_safetensors` does."""
    from safetensors import safe_open

    with _refused(path, problem, remedy), safe_open(path, "np") as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _refused(path: Path, problem: str, remedy: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError) as error:  # the last two: a type NumPy lacks
        raise UserError(f"{path}: {problem} ({error}){remedy}") from error
