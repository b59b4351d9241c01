"""Rows that the processes of a job have made, each a part of them: all processes get all rows.

Processes of one machine read them from one file that is mapped into memory, which holds them once.
"""

import contextlib
import platform
import secrets
from pathlib import Path

import numpy as np

from config.errors import UserError
from engine.parallel.processes import (
    all_or_none,
    all_reduce,
    broadcast_values,
    gather_array,
    gather_bytes,
    is_main,
)

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def share_rows(places: np.ndarray, rows: np.ndarray | None, total: int, folder: str | Path) -> np.ndarray:
    """Return the rows [total,D] float32 of all processes, of which this one has made `rows` [n,D].

    `places` [n]: where these belong; together the processes have each place once. `rows` is None where n
    is 0. Processes of one machine share a file in `folder`, which loses its name as soon as all have mapped
    it: it ends with the processes, however they end. Those of several machines each get a copy. All
    processes of the job call this. Raises UserError where the file cannot be written, or not be seen by all.
    """
    width = int(all_reduce(np.array([0 if rows is None else rows.shape[1]]), "max")[0])
    rows = np.empty((0, width), np.float32) if rows is None else np.asarray(rows, np.float32)
    if len(set(gather_bytes(_machine()))) > 1:
        whole = np.empty((total, width), np.float32)
        whole[gather_array(places)] = gather_array(rows)
        return whole
    path = Path(folder) / f".rows.{int(broadcast_values([secrets.randbits(48)])[0])}"
    try:
        all_or_none(lambda: _create(path) if is_main() else None)
        all_or_none(lambda: _write(path, places, rows))
        return all_or_none(lambda: np.asarray(np.memmap(path, np.float32, "r", shape=(total, width))))
    finally:
        if is_main():
            with contextlib.suppress(OSError):  # such as a folder that is none
                path.unlink()


def _machine() -> bytes:
    """Return what processes of one machine, and of one container, have in common."""
    return platform.node().encode() + (_BOOT.read_bytes() if _BOOT.is_file() else b"")


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError as error:
        raise _refusal(path, error) from error


def _write(path: Path, places: np.ndarray, rows: np.ndarray) -> None:
    """Write by the file, not by the map: a disk that is full would kill the process in the midst of a map."""
    try:
        with open(path, "r+b") as file:
            for place, row in zip(places.tolist(), np.ascontiguousarray(rows), strict=True):
                file.seek(place * row.nbytes)
                file.write(row.data)
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the embeddings that processes share into {path.parent}: {error.strerror}; free some "
        "space there, or name another folder"
    )
