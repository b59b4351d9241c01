"""Pictures as a bundle's graphs read them: cut and normalised. Searches for sentences need no Pillow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from config.errors import UserError
from datasets.pictures.picture import Picture, UnreadableError
from datasets.pictures.transforms import Normalization, ResizeCentreCrop


@dataclass(frozen=True)
class PicturePreparation:
    """How a picture becomes the pixels of a network: its centre, resized, as numbers."""

    transform: ResizeCentreCrop
    normalization: Normalization

    @classmethod
    def of(cls, image: dict) -> "PicturePreparation":
        """Return the preparation that the entry `image` of a bundle's description states."""
        return cls(
            ResizeCentreCrop(image["resize"], image["crop"]),
            Normalization(tuple(image["mean"]), tuple(image["scale"]), image["bgr"]),
        )

    def read(self, picture: str | Path | Image.Image) -> np.ndarray:
        """Return the pixels of a picture file or of Pillow's image: float32 [3,crop,crop].

        Raises UnreadableError.
        """
        if isinstance(picture, Image.Image):
            return self._pixels(Picture.of(picture))
        return self.read_bytes(_content(picture))

    def read_bytes(self, data: bytes) -> np.ndarray:
        """Return the pixels of the picture in a file's `data`: float32 [3,crop,crop].

        Raises UnreadableError.
        """
        return self._pixels(Picture(data))

    def _pixels(self, opened: Picture) -> np.ndarray:
        views = self.transform(opened.size, np.random.default_rng(0))  # not at random
        (cut,) = opened.views(views, Image.Resampling.BILINEAR)
        pixels = np.empty((3, *cut.shape[:2]), np.float32)
        self.normalization.write(cut, pixels)
        return pixels

    def read_or_refuse(self, picture: str | Path | Image.Image) -> np.ndarray:
        """Return what `read` returns; raise UserError that names a picture that cannot be read."""
        try:
            return self.read(picture)
        except UnreadableError as error:
            name = "picture" if isinstance(picture, Image.Image) else picture
            raise UserError(f"{name}: unreadable picture: {error}: mend or remove it") from error


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
