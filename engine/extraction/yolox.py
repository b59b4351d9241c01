"""Runs a YOLOX detector: from a picture to the boxes of the objects in it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from config.errors import UserError
from datasets.pictures.picture import CropBox, Picture
from datasets.pictures.transforms import Normalization
from engine.extraction.boxes import Detections, decode_yolox, find_regions


@dataclass(frozen=True)
class Yolox:
    """A network [B,3,size,size] -> [B,A,5+K], and its letterbox.

    A picture is scaled to fit into the upper left corner of the input and keeps its aspect ratio; `pad` is
    the pixel value of the border. `strides` are those of `decode_yolox`, `classes` the K names of the
    classes, and `overlap` is that of `find_regions`.
    """

    network: Callable[[np.ndarray], np.ndarray]
    normalization: Normalization
    size: int
    strides: tuple[int, ...]
    pad: int
    classes: tuple[str, ...]
    overlap: float

    def letterbox(self, picture: Picture) -> np.ndarray:
        """Return the network's input for a picture, float32 [3,size,size]; may raise `UnreadableError`."""
        width, height = self._filled(picture.size)
        pixels = np.full((self.size, self.size, 3), self.pad, dtype=np.uint8)
        whole = CropBox((0, 0, *picture.size), (width, height))
        (pixels[:height, :width],) = picture.views([whole], Image.Resampling.BILINEAR)
        out = np.empty((3, self.size, self.size), dtype=np.float32)
        self.normalization.write(pixels, out)
        return out

    def find(
        self, size: tuple[int, int], boxed: np.ndarray, least_score: float, fewest: int, most: int
    ) -> Detections:
        """Return the objects in a picture, with boxes in its pixels.

        `size` is the width and the height of the picture, `boxed` its `letterbox`. The other arguments are
        those of `find_regions`. Raises `UserError` if the network has another number of boxes or classes.
        """
        try:
            boxes, scores = decode_yolox(
                self.network(boxed[None])[0], self.size, self.strides, len(self.classes)
            )
        except ValueError as error:
            raise UserError(f"the detector's output does not fit its YAML file: {error}") from error
        filled = self._filled(size)
        found = find_regions(boxes, scores, filled, self.overlap, least_score, fewest, most)
        scale = np.array([size[0] / filled[0], size[1] / filled[1]] * 2, dtype=np.float32)
        boxes = np.minimum(found.boxes * scale, np.array([*size, *size], dtype=np.float32))
        return Detections(boxes, found.scores, found.classes)

    def _filled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and the height of a picture of `size` in the input."""
        scale = self.size / max(size)
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
