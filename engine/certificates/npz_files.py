"""Read the plain arrays of an .npz file; whatever else a file holds is a user's mistake."""

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from config.errors import UserError, some


def read_npz(path: Path, needed: Collection[str], remedy: str) -> dict[str, np.ndarray]:
    """Return all arrays of the .npz file at `path` by name.

    Raises UserError, which ends with `remedy`, for a file that is missing, damaged or of another kind, and
    for one that lacks one of the `needed` arrays.
    """
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise UserError(f"{path}: not an .npz file: {remedy}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): {remedy}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: not a file of plain arrays ({reason}): {remedy}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path}: no array {missing[0]}, it holds {some(sorted(arrays)) or 'none'}: {remedy}")
    return arrays
