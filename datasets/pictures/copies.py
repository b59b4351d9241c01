"""Tell which names stand for the same picture: for one file, or for files with the same bytes."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import UnreadableError


def number_pictures(*sets: tuple[PictureFiles, Sequence[str]]) -> list[np.ndarray]:
    """Return a number for each name of each set, int64 [N]; equal numbers are the same picture.

    A file is known by its place on the disk, whatever links lead there, and a copy by its bytes. Only files
    of one size are read. A file that cannot be read is like no other.
    """
    listed = [(files, name) for files, names in sets for name in names]
    places = [files.place(name) for files, name in listed]
    pictures = dict(zip(places, listed, strict=True))
    sizes = {place: files.size(name) for place, (files, name) in pictures.items()}
    common = Counter(sizes.values())
    content_of = {
        place: _content(*pictures[place]) if size > 0 and common[size] > 1 else None
        for place, size in sizes.items()
    }
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(content_of[place] or place, len(numbers)) for place in places]
    ends = np.cumsum([len(names) for _, names in sets])
    return np.split(np.array(found, dtype=np.int64), ends[:-1])


def _content(files: PictureFiles, name: str) -> bytes | None:
    """Return a checksum of a file's bytes; None if it cannot be read."""
    try:
        return hashlib.blake2b(files.read(name), digest_size=20).digest()
    except UnreadableError:
        return None
