"""The vectors of an index: float32 rows one after another in a file, and a check of each row in another."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.errors import UnavailableError, UserError
from config.files.whole import flush_to_disk

VECTORS, CHECKS = "vectors.f32", "checks.u32"
BLOCK_BYTES = 8 << 20  # of rows that are read, or compared, at a time
_SALT = np.uint32(0x9E3779B9)  # so that the check of a row of zeros, such as a hole in a file, is not zero
_UNIT = 2e-3  # how far the length of a normalised vector may be from 1; bfloat16 costs 0.001 to 0.002


def check_vectors(what: str, vectors: np.ndarray, dimension: int, measure: str) -> np.ndarray:
    """Return `vectors` as float32 [N,D]; `what` names them in messages.

    Raises UserError for another dimension than D, for NaN and infinity, and, where `measure` is "cosine", for
    rows whose length is not 1.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dimension or vectors.dtype.kind not in "fiu":
        raise UserError(
            f"{what}: expected numbers of shape [N,{dimension}], as the index holds, got {vectors.dtype} of "
            f"shape {list(vectors.shape)}: use the bundle that the index was built with"
        )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if measure == "cosine" and (np.abs(lengths - 1) <= _UNIT).all():
        return vectors
    broken = np.flatnonzero(~np.isfinite(lengths))
    if len(broken):
        raise UserError(f"{what}: row {broken[0] + 1} holds NaN or infinity, expected finite numbers")
    uneven = np.flatnonzero(np.abs(lengths - 1) > _UNIT) if measure == "cosine" else []
    if len(uneven):
        raise UserError(
            f"{what}: row {uneven[0] + 1} has the length {lengths[uneven[0]]:.4g}, expected 1: normalise the "
            "vectors, since the index compares by cosine"
        )
    return vectors


def row_checks(rows: np.ndarray) -> np.ndarray:
    """Return the check, uint32 [N], of float32 rows [N,D]: the exclusive or of their words.

    It changes with every single bit, and is computed as fast as memory is read.
    """
    return np.bitwise_xor.reduce(np.ascontiguousarray(rows).view(np.uint32), axis=1) ^ _SALT


class VectorFile:
    """The two files in `folder`; the caller remembers how many rows are valid.

    What stands behind the valid rows was not acknowledged, and the next `write` cuts it.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self.path, self._checks, self.dimension = folder / VECTORS, folder / CHECKS, dimension

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write float32 rows [N,D] behind the `start` valid ones, and wait for the disk; raise OSError."""
        for path, content in ((self.path, rows), (self._checks, row_checks(rows))):
            content = np.ascontiguousarray(content)
            new = not path.exists()
            with open(path, "ab") as file:
                file.truncate(start * content[:1].nbytes)
                file.write(content.data)
                file.flush()
                os.fsync(file.fileno())
            if new:
                flush_to_disk(path.parent)

    def open(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` valid rows [N,D], mapped into memory, and their checks [N].

        Raises UserError for a file that is missing or cut.
        """
        shapes = {self.path: ((count, self.dimension), np.float32), self._checks: ((count,), np.uint32)}
        return tuple(self._map(path, *shape) for path, shape in shapes.items())

    def _map(self, path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            found = path.stat().st_size
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error
        if found < wanted:
            raise damaged(
                path, f"cut: {found:,} bytes, expected at least {wanted:,} for {shape[0]:,} vectors"
            )
        if not wanted:
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(path, dtype, "r", shape=shape))


def take_rows(path: Path, vectors: np.ndarray, checks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `vectors[rows]` after a comparison with `checks`; raise UserError for a row that has changed."""
    taken = vectors[rows]
    wrong = row_checks(taken) != checks[rows]
    if wrong.any():
        raise damaged(path, f"vector {np.asarray(rows)[wrong][0] + 1} is not what was written")
    return taken


def forget(rows: np.ndarray) -> None:
    """Give the memory of mapped rows back; they are read from their file again when they are needed."""
    owner = rows
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap):  # such memory is the only place of its rows
        return
    begins = rows.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    start = -(-begins // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (begins + rows.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0 and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED, start, length)


def blocks_of(count: int, dimension: int) -> Iterator[slice]:
    """Yield slices of `count` rows of D float32 numbers, a few megabytes each."""
    size = max(1, BLOCK_BYTES // (4 * dimension))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def damaged(path: Path, reason: str) -> UnavailableError:
    """Return the error for a file of an index that cannot be used."""
    return UnavailableError(f"{path}: damaged ({reason}): copy the index again, or build it again")
