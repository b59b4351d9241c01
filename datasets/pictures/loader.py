"""Load batches of pictures: decoded, cropped and normalised. A resumed run repeats the same random crops."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import CropBox, Picture, UnreadableError, Unreadables
from datasets.pictures.transforms import Normalization, Transform


@dataclass(frozen=True)
class PictureBatch:
    """The B readable ones of the requested pictures, with V views of each.

    `images` is float32 [B,V,3,H,W]. `kept` (int64 [B]) are their places among the requested indices. `sizes`
    (int64 [B,2]) are width and height of the upright pictures in pixels. `boxes` (float32 [B,V,4]) are the
    parts that the views show: x1, y1, x2, y2 in the same pixels. If no picture is readable, B, V, H and W are
    0.
    """

    images: np.ndarray
    kept: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray


class PictureLoader:
    """Reads pictures by index into one array per batch; threads may share it.

    `names` are names in `files`, and indices refer to their order. `seed`, the epoch and a picture's index
    determine everything random in `transform`. `unreadables` collects or refuses the pictures that cannot be
    read.
    """

    def __init__(
        self,
        files: PictureFiles,
        names: Sequence[str],
        transform: Transform,
        normalization: Normalization,
        unreadables: Unreadables,
        seed: int = 0,
        resample: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        self.files, self.names, self.unreadables = files, names, unreadables
        self.transform, self.normalization, self.resample = transform, normalization, resample
        self._seed = seed

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int], epoch: int = 0) -> PictureBatch:
        """Return the pictures at some indices.

        Raises `UserError` for an unreadable picture if `unreadables` refuses them.
        """
        images, kept = np.empty((0, 0, 3, 0, 0), dtype=np.float32), []
        sizes, boxes = [], []
        for place, index in enumerate(indices):
            try:
                picture = Picture(self.files.read(self.names[index]))
                views = self._cut(picture, int(index), epoch)
                cuts = picture.views(views, self.resample)
            except UnreadableError as error:
                self.unreadables.add(self.names[index], error, self.files.path)
                continue
            if not kept:
                height, width, _ = cuts[0].shape
                images = np.empty((len(indices), len(cuts), 3, height, width), dtype=np.float32)
            for cut, out in zip(cuts, images[len(kept)], strict=True):
                self.normalization.write(cut, out)
            kept.append(place)
            sizes.append(picture.size)
            boxes.append([view.box for view in views])
        return PictureBatch(
            images[: len(kept)],
            np.array(kept, dtype=np.int64),
            np.array(sizes, dtype=np.int64).reshape(-1, 2),
            np.array(boxes, dtype=np.float32).reshape(len(kept), images.shape[1], 4),
        )

    def _cut(self, picture: Picture, index: int, epoch: int) -> list[CropBox]:
        return self.transform(picture.size, np.random.default_rng((self._seed, epoch, index)))
