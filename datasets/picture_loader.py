"""Batches of pictures, decoded, cut and normalised; a resume cuts each picture as it was cut before."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from datasets.images import Picture, UnreadableError, Unreadables
from datasets.picture_files import PictureFiles
from datasets.transforms import Normalization, Transform


class PictureLoader:
    """Reads pictures by index into one array a batch; threads may share it.

    names: of pictures in `files`, the order that indices mean. seed: with the epoch and a picture's index, of
    all that is random in `transform`.
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
        self._transform, self._normalization = transform, normalization
        self._seed, self._resample = seed, resample

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int], epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return pictures, float32 [B,V,3,H,W], V views each, and which of `indices` they are, int64 [B].

        Unreadable pictures are left out, so that B may be less than asked for, and 0 (the array then is
        [0,0,3,0,0]). Raises `UserError` for one if they are refused.
        """
        images, kept = np.empty((0, 0, 3, 0, 0), dtype=np.float32), []
        for position, index in enumerate(indices):
            try:
                views = self._views(int(index), epoch)
            except UnreadableError as error:
                self.unreadables.add(self.names[index], error)
                continue
            if not kept:
                height, width, _ = views[0].shape
                images = np.empty((len(indices), len(views), 3, height, width), dtype=np.float32)
            for view, out in zip(views, images[len(kept)], strict=True):
                self._normalization.write(view, out)
            kept.append(position)
        return images[: len(kept)], np.array(kept, dtype=np.int64)

    def _views(self, index: int, epoch: int) -> list[np.ndarray]:
        picture = Picture(self.files.read(self.names[index]))
        random = np.random.default_rng((self._seed, epoch, index))
        return picture.views(self._transform(picture.size, random), self._resample)
