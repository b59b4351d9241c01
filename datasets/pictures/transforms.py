"""Choose which part of a picture a network sees, and turn its pixels into numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from config.cnns import IMAGENET_MEAN, IMAGENET_SCALE
from datasets.pictures.picture import CropBox

Transform = Callable[[tuple[int, int], np.random.Generator], list[CropBox]]  # (width, height) -> views

_ATTEMPTS = 10  # that RandomResizedCrop makes before it takes the centre


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and shape, resized to a square; half of the parts are mirrored if `flip`.

    `crop` is the side of the square in pixels. `area` is the range of the part's share of the picture's area.
    `ratio` is the range of its width / height, drawn uniformly in the logarithm (Szegedy et al. 2015, arXiv
    1409.4842, section 6).
    """

    crop: int
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __call__(self, size: tuple[int, int], random: np.random.Generator) -> list[CropBox]:
        """Return one view at random."""
        flip = self.flip and random.random() < 0.5
        return [CropBox(self._box(*size, random), (self.crop, self.crop), flip)]

    def _box(self, width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = width * height * random.uniform(*self.area)
            ratio = math.exp(random.uniform(low, high))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                left = int(random.integers(width - across + 1))
                upper = int(random.integers(height - down + 1))
                return left, upper, left + across, upper + down
        across = min(width, max(1, round(height * self.ratio[1])))
        down = min(height, max(1, round(width / self.ratio[0])))
        left, upper = (width - across) // 2, (height - down) // 2
        return left, upper, left + across, upper + down


@dataclass(frozen=True)
class ResizeCentreCrop:
    """The central square, of side `crop`, of the picture whose short side is resized to `resize` pixels."""

    resize: int
    crop: int

    def __call__(self, size: tuple[int, int], random: np.random.Generator) -> list[CropBox]:
        """Return one view, not at random."""
        resized = _resized(size, self.resize)
        return [_crop(size, resized, _centre(resized, self.crop), self.crop)]


@dataclass(frozen=True)
class TenCrop:
    """The corners and the centre of the resized picture, and their mirror images, as VSE++ averages them."""

    resize: int
    crop: int

    def __call__(self, size: tuple[int, int], random: np.random.Generator) -> list[CropBox]:
        """Return ten views, not at random."""
        resized = _resized(size, self.resize)
        right, lower = (side - self.crop for side in resized)
        corners = [(0, 0), (right, 0), (0, lower), (right, lower), _centre(resized, self.crop)]
        return [_crop(size, resized, corner, self.crop, flip) for flip in (False, True) for corner in corners]


@dataclass(frozen=True)
class Stretch:
    """The whole picture, resized to a square whatever its shape."""

    crop: int

    def __call__(self, size: tuple[int, int], random: np.random.Generator) -> list[CropBox]:
        """Return one view, not at random."""
        return [CropBox((0, 0, *size), (self.crop, self.crop))]


@dataclass(frozen=True)
class Normalization:
    """Pixels to numbers: (pixel - mean) x scale, with one value for each channel of the result.

    `mean` is of pixels of 0 to 255. `bgr` puts blue first in the result, and so in `mean` and `scale`.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    scale: tuple[float, float, float] = IMAGENET_SCALE
    bgr: bool = False

    def write(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Write uint8 RGB pixels [H,W,3] as float32 into `out` [3,H,W]."""
        # All channels in one call: threads that do the same wait for each other at every call.
        channels = pixels.transpose(2, 0, 1)[:: -1 if self.bgr else 1]  # [3,H,W]
        mean, scale = (np.array(values)[:, None, None] for values in (self.mean, self.scale))
        np.multiply(channels, scale.astype(np.float32), out=out, dtype=np.float32)
        out -= (mean * scale).astype(np.float32)


def _resized(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return width and height after the shorter one is resized to `short`."""
    width, height = size
    if width <= height:
        return short, max(short, int(short * height / width))
    return max(short, int(short * width / height)), short


def _centre(resized: tuple[int, int], crop: int) -> tuple[int, int]:
    return round((resized[0] - crop) / 2), round((resized[1] - crop) / 2)


def _crop(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], crop: int, flip: bool = False
) -> CropBox:
    """Return a square of the resized picture as a box of the whole one: the rest need not be resized."""
    x_scale, y_scale = size[0] / resized[0], size[1] / resized[1]
    left, upper = corner
    box = (left * x_scale, upper * y_scale, (left + crop) * x_scale, (upper + crop) * y_scale)
    return CropBox((box[0], box[1], min(box[2], size[0]), min(box[3], size[1])), (crop, crop), flip)
