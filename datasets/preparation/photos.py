"""Look at every photo once: whether it can be read, and its perceptual hash."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from config.files.whole import write_whole
from config.progress import ShowProgress, no_progress
from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import Picture, UnreadableError
from datasets.prefetch import prefetched
from datasets.preparation.near_duplicates import BITS, SIDE, perceptual_hash

_TOGETHER = 16  # photos that a thread looks at in one piece
_SECONDS = 10  # between two records: what is seen in less is seen again


@dataclass(frozen=True)
class Seen:
    """What was seen of a photo: its file's `fingerprint`, and its hash or, without one, the `problem`."""

    fingerprint: tuple[int, int]
    hash: np.ndarray | None
    problem: str = ""


def look_at_photos(
    files: PictureFiles, record: Path, workers: int, progress: ShowProgress = no_progress
) -> dict[str, Seen]:
    """Return what is seen of every photo of `files`, by name.

    What takes longer than some seconds is kept in the file `record`, from which the next call goes on; a
    photo whose file has changed since is looked at again.
    """
    seen = _read_record(record)
    seen = {
        name: seen[name]
        for name in files.names
        if name in seen and seen[name].fingerprint == tuple(files.fingerprint(name))
    }
    missing = [name for name in files.names if name not in seen]
    batches = [missing[start : start + _TOGETHER] for start in range(0, len(missing), _TOGETHER)]
    saved = time.monotonic()
    for found in prefetched(lambda names: _look(files, names), batches, workers):
        seen |= found
        progress("looking at photos", len(seen), len(files))
        if time.monotonic() - saved > _SECONDS:
            write_record(record, seen)
            saved = time.monotonic()
    return {name: seen[name] for name in files.names}


def write_record(path: Path, seen: dict[str, Seen]) -> None:
    """Write what was seen as JSON; raise UserError if the file system refuses."""
    content = {
        name: [
            *each.fingerprint,
            None if each.hash is None else np.packbits(each.hash).tobytes().hex(),
            each.problem,
        ]
        for name, each in seen.items()
    }
    write_whole(path, json.dumps(content, indent=0) + "\n")


def _read_record(path: Path) -> dict[str, Seen]:
    """Return what a record holds, nothing if it is missing or not one."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: _seen(*entry) for name, entry in content.items()}
    return {}


def _seen(size: int, mark: int, bits: str | None, problem: str) -> Seen:
    """Return what an entry of a record says; raise ValueError for neither a hash nor a problem."""
    if bits is None and not problem:
        raise ValueError("nothing was seen")
    return Seen((size, mark), None if bits is None else _unpacked(bits), str(problem))


def _unpacked(text: str) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:BITS].astype(bool)
    if len(bits) != BITS:
        raise ValueError("another number of bits")
    return bits


def _look(files: PictureFiles, names: Sequence[str]) -> dict[str, Seen]:
    return {name: _look_at(files, name) for name in names}


def _look_at(files: PictureFiles, name: str) -> Seen:
    fingerprint = tuple(files.fingerprint(name))
    try:
        return Seen(fingerprint, hash_of_picture(files.read(name)))
    except UnreadableError as error:
        return Seen(fingerprint, None, str(error))


def hash_of_picture(data: bytes) -> np.ndarray:
    """Return the perceptual hash, bool [143], of a picture file; raise UnreadableError for no picture."""
    picture = Picture(data)
    upright = picture.decode(min(picture.size) / SIDE)
    grey = upright.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return perceptual_hash(np.asarray(grey, dtype=np.float32))
