"""Pictures from outside and thumbnails: decoded in a bounded way, written anew without what a camera wrote.

An id is never a path: it is looked up among the names in the folder of pictures, or hashed.
"""

import hashlib
import io
import os
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from config.errors import UserError
from config.files.whole import writing
from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import Picture, UnreadableError

SIZES = (160, 320, 640, 1280)  # pixels of a thumbnail's longer side
_CACHE_BYTES = 64 << 20
_FILE_BYTES = 200 << 20


def opened(data: bytes, pixels: int) -> Picture:
    """Return the picture in `data`, of which the header alone is read; raise UserError for others.

    More than `pixels` pixels are refused. Only the first frame of a moving picture counts.
    """
    try:
        picture = Picture(data)
    except UnreadableError as error:
        raise UserError(f"unreadable picture: {error}") from error
    width, height = picture.size
    if width * height > pixels:
        raise UserError(f"a picture of {width} x {height} pixels, expected at most {pixels:,} in all")
    return picture


def shrunk(picture: Picture, size: int) -> bytes:
    """Return a JPEG whose longer side has at most `size` pixels; raise UserError where it is damaged.

    It is made of pixels alone: no EXIF, no position, no comment, no colour profile.
    """
    longer = max(picture.size)
    try:
        image = picture.decode(max(1.0, longer / size / 2)).copy()
    except UnreadableError as error:
        raise UserError(f"unreadable picture: {error}") from error
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.info.clear()
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85, optimize=True)
    return written.getvalue()


def grey() -> bytes:
    """Return the file of a small grey picture."""
    written = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(written, "PNG")
    return written.getvalue()


class Thumbnails:
    """Thumbnails of items, from a folder of pictures and from pictures that were uploaded; threads share it.

    `folder` is the collection's, None if it has none; `uploads` is where pictures of added items are kept.
    """

    def __init__(self, folder: Path | None, uploads: Path | None) -> None:
        self._files = PictureFiles(folder) if folder else None
        self._uploads = uploads
        self._lock, self._cache, self._held = threading.Lock(), OrderedDict(), 0
        self._work = threading.BoundedSemaphore(2)

    @property
    def shown(self) -> bool:
        """Return whether items may have pictures."""
        return self._files is not None or (self._uploads is not None and self._uploads.is_dir())

    def get(self, identity: str, size: int) -> bytes | None:
        """Return the JPEG of an item, None where it has no readable picture."""
        with self._lock:
            if (identity, size) in self._cache:
                self._cache.move_to_end((identity, size))
                return self._cache[identity, size]
        with self._work:
            data = self._read(identity)
            try:
                made = None if data is None else shrunk(opened(data, 100_000_000), size)
            except UserError:
                made = None
        if made is not None:
            self._remember((identity, size), made)
        return made

    def size(self, identity: str) -> tuple[int, int] | None:
        """Return width and height of an item's picture, None where it has none."""
        data = self._read(identity)
        try:
            return None if data is None else Picture(data).size
        except UnreadableError:
            return None

    def keep(self, identity: str, data: bytes) -> None:
        """Keep the picture of an item that was added; raise UserError for a full disk."""
        if self._uploads is None:
            return
        self._uploads.mkdir(exist_ok=True)
        with writing(self._upload(identity), "free some space") as draft:
            Path(draft).write_bytes(data)
        self._forget(identity)

    def remove(self, identity: str) -> None:
        """Remove the picture of an item that was deleted."""
        if self._uploads is not None:
            self._upload(identity).unlink(missing_ok=True)
        self._forget(identity)

    def _upload(self, identity: str) -> Path:
        return self._uploads / f"{hashlib.sha256(identity.encode()).hexdigest()}.jpg"

    def _read(self, identity: str) -> bytes | None:
        if self._uploads is not None:
            try:
                return self._upload(identity).read_bytes()
            except OSError:
                pass
        names = self._files.fitting(identity) if self._files else []
        if len(names) != 1 or self._files.size(names[0]) > _FILE_BYTES:
            return None
        try:
            return self._files.read(names[0])
        except (UnreadableError, UserError):
            return None

    def _remember(self, key: tuple[str, int], made: bytes) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = made
                self._held += len(made)
            while self._held > _CACHE_BYTES:
                self._held -= len(self._cache.popitem(last=False)[1])

    def _forget(self, identity: str) -> None:
        with self._lock:
            for size in SIZES:
                self._held -= len(self._cache.pop((identity, size), b""))


def picture_folder(given: str | None, source: dict) -> Path | None:
    """Return the folder of the collection's pictures: the one that is given, else what the index is made of.

    `source` is that of the card. The pictures of features may be in a zip file.
    """
    if given:
        return Path(given)
    path = source.get("path" if source.get("kind") == "pictures" else "pictures")
    return Path(path) if path and isinstance(path, str) and os.path.exists(path) else None
