"""Image features that were made in this process, such as those of a query."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.features.store import Annotations, FeatureStore


class MemoryFeatures(FeatureStore):
    """The features of images in memory: `vectors` are float32 [R,F] each, or [1,F] without `has_regions`.

    `path` names in messages where they come from. Raises `UserError` for vectors that are not `expected_dim`
    wide.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        image_ids: Sequence[str],
        path: Path,
        has_regions: bool,
        expected_dim: int | None = None,
    ) -> None:
        self.path, self.dim = path, vectors[0].shape[1]
        self._check_width(expected_dim)
        self._vectors = list(vectors)
        self._counts = np.array([len(each) for each in vectors], dtype=np.int64)
        self.max_regions = int(self._counts.max()) if has_regions else None
        self._name_rows(path, list(image_ids), "picture {}")

    def __len__(self) -> int:
        return len(self._vectors)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self._counts[rows]

    def annotations(self, row: int) -> Annotations:
        """Return empty annotations."""
        return Annotations()

    def check(self, rows: np.ndarray | None = None) -> None:
        """Do nothing: each row is checked when it is read."""

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.concatenate([self._vectors[row] for row in rows])
