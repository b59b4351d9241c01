"""The images of a feature store or a folder, in the batches of an image encoder, with or without captions."""

from collections.abc import Sequence

import numpy as np

from datasets.features.store import FeatureStore, ImageRegions


class Gallery:
    """Images that are encoded and searched; `image_ids` are their names, `num_images` is their number.

    `name` tells in messages which images these are. `image_ids` are by default the store's own, or row
    numbers; `image_rows` (int64 [images]) are the images' rows in the store, by default all. `pool_regions`
    averages an image's regions.
    """

    def __init__(
        self,
        features: FeatureStore,
        name: str,
        image_ids: Sequence[str] | None = None,
        image_rows: np.ndarray | None = None,
        pool_regions: bool = True,
    ) -> None:
        self.features, self.name, self.pool_regions = features, name, pool_regions
        self._image_rows = np.arange(len(features)) if image_rows is None else image_rows
        self.image_ids = image_ids or features.image_ids or [str(row) for row in self._image_rows]
        self.num_images = len(self.image_ids)

    def image_batch(self, image_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the images [B] by index, as an image encoder takes them.

        Global or pooled features are `features`, float32 [B,F]; regions are `regions`, float32 [B,R,F], with
        `num_regions`, int64 [B]; pictures are `pixels`, float32 [B,3,H,W].
        """
        rows = self._image_rows[image_indices]
        values = self.features.gather(rows, self.pool_regions)
        if values.ndim == 2:
            return {"features": values}
        if values.ndim == 4:
            return {"pixels": values}
        # Networks average over regions: an image without any shows one of zeros.
        return {"regions": values, "num_regions": np.maximum(self.features.counts(rows), 1)}

    def regions(self, image: int) -> ImageRegions:
        """Return one image's features, not pooled, with the boxes and tags that its file holds."""
        return self.features[int(self._image_rows[image])]

    def check_features(self) -> None:
        """Check the features of up to 2 GB of images; raise `UserError` for a row with NaN or infinity."""
        self.features.check(self._image_rows)

    def feature_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, float32 [F] each, of the features, pooled if batches are."""
        return self.features.moments(self._image_rows, self.pool_regions)
