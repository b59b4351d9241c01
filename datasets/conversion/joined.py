"""The features of several files as one store, to write them into one file."""

from collections.abc import Sequence

import numpy as np

from config.errors import UserError
from datasets.features.store import Annotations, FeatureStore


class JoinedFeatures(FeatureStore):
    """Some rows of several stores of global features, in the order in which they are given.

    Each of `parts` is a store and its rows, int64. The last store's file stands for all. Raises UserError for
    stores of another width or with regions.
    """

    dtype = np.dtype(np.float32)
    max_regions = None

    def __init__(self, parts: Sequence[tuple[FeatureStore, np.ndarray]]) -> None:
        self._stores = [store for store, _ in parts]
        first = self._stores[0]
        for store in self._stores:
            if store.dim != first.dim or store.max_regions is not None:
                raise UserError(
                    f"{store.path}: {store.describe()}, expected {first.dim} as in {first.path}: "
                    "extract both anew"
                )
        self.path, self.dim = self._stores[-1].path, first.dim
        self._part = np.concatenate([np.full(len(rows), at) for at, (_, rows) in enumerate(parts)])
        self._row = np.concatenate([rows for _, rows in parts]).astype(np.int64)
        ids = [store.image_ids[row] for store, rows in parts for row in rows.tolist()]
        self._name_rows(self.path, ids, "image {}")

    def __len__(self) -> int:
        return len(self._row)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return 1 for each row: int64 [B]."""
        return np.ones(len(rows), dtype=np.int64)

    def annotations(self, row: int) -> Annotations:
        """Return a row's image size, as its own store has it."""
        return self._stores[self._part[row]].annotations(int(self._row[row]))

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        for part in np.unique(self._part[rows]):
            here = self._part[rows] == part
            found[here] = self._stores[part].gather(self._row[rows[here]], pool=False)
        return found
