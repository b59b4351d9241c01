"""What a bundle's graphs read: features that are checked, and pictures that are cut and normalised."""

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


def checked_features(
    features: np.ndarray, counts: np.ndarray | None, image: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float32 [N,F] or [N,R,F], and the number of regions of each image, int64 [N].

    A model of regions takes vectors [N,F] as one region each. Raises UserError for another shape or width,
    for counts that are not 1 to R, and for NaN and infinity outside the padding.
    """
    features = np.asarray(features)
    width = image["width"]
    if features.ndim not in (2, 3) or features.shape[-1] != width or features.dtype.kind not in "fiu":
        raise UserError(
            f"features: expected numbers of shape [images, {width}] or [images, regions, {width}], got "
            f"{features.dtype} of shape {list(features.shape)}: extract them as for the training of the model"
        )
    with np.errstate(over="ignore"):  # what is beyond float32's range becomes infinite and is refused below
        features = features.astype(np.float32)
    if image["reads"] == "regions" and features.ndim == 2:
        features = features[:, None]
    most = features.shape[1] if features.ndim == 3 else 1
    counts = np.full(len(features), most) if counts is None else np.asarray(counts)
    if counts.shape != (len(features),) or not ((counts >= 1) & (counts <= most)).all():
        raise UserError(
            f"counts: expected {len(features)} numbers of regions from 1 to {most}, got {counts.tolist()[:5]}"
        )
    finite = np.isfinite(features).reshape(len(features), most, -1).all(axis=2)
    broken = np.flatnonzero((~finite & (np.arange(most) < counts[:, None])).any(axis=1))
    if len(broken):
        raise UserError(f"features: image {broken[0] + 1} holds NaN or infinity, expected finite numbers")
    return features, counts.astype(np.int64)


def mean_of_regions(regions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean [N,F] of the first `counts[n]` regions of each image of `regions` [N,R,F]."""
    real = np.arange(regions.shape[1]) < counts[:, None]
    return np.where(real[..., None], regions, 0).sum(axis=1, dtype=np.float32) / counts[:, None].astype(
        np.float32
    )


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
