"""Regions with six terms of their boxes, as Oscar and VinVL use them."""

from pathlib import Path

import numpy as np

from config.errors import UserError
from datasets.features.formats import open_features
from datasets.features.store import Annotations, FeatureStore

BOX_TERMS = 6


class BoxTermFeatures(FeatureStore):
    """The regions of another store, each followed by x1/W, y1/H, x2/W, y2/H, w/W, h/H of its box.

    W and H are the image's size in pixels. Raises `UserError` that names a row without boxes or image size,
    or with a size of 0.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, inner: FeatureStore) -> None:
        self.inner, self.path = inner, inner.path
        self.dim = inner.dim + BOX_TERMS
        self.max_regions = inner.max_regions
        self.image_ids, self.row_of = inner.image_ids, inner.row_of
        self._terms(0)  # a missing box or size is reported now, not in the first batch

    def __len__(self) -> int:
        return len(self.inner)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self.inner.counts(rows)

    def annotations(self, row: int) -> Annotations:
        """Return the inner store's annotations of a row."""
        return self.inner.annotations(row)

    def _place(self, row: int) -> str:
        return self.inner._place(row)

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = np.empty((int(counts.sum()), self.dim), dtype=np.float32)
        values[:, : self.inner.dim] = self.inner.vectors(rows)
        end = 0
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            end += count
            values[end - count : end, self.inner.dim :] = self._terms(row)
        return values

    def _terms(self, row: int) -> np.ndarray:
        """Return the terms of an image's boxes, float32 [R,6]."""
        notes = self.inner.annotations(row)
        lacking = "boxes" if notes.boxes is None else "the image's size" if notes.image_size is None else ""
        if lacking:
            raise UserError(
                f"{self.path}: {self._place(row)} lacks {lacking}, from which the {BOX_TERMS} terms of a box "
                f"come ({self.inner.dim} features + {BOX_TERMS}): write X_boxes.npy and X_sizes.npy beside "
                f"X_ims.npy (docs/data.md), or set INPUT.IMG_FEATURE_DIM={self.inner.dim} to do without"
            )
        if min(notes.image_size) <= 0:
            raise UserError(
                f"{self.path}: {self._place(row)} has an image of {notes.image_size[0]} x "
                f"{notes.image_size[1]} pixels, expected its width and height: mend the sizes"
            )
        size = np.array(notes.image_size, dtype=np.float32)
        corners = notes.boxes.reshape(-1, 2, 2) / size  # [R,2,2]
        return np.concatenate([corners.reshape(-1, 4), corners[:, 1] - corners[:, 0]], axis=1)


def open_regions(path: str | Path, expected_dim: int) -> FeatureStore:
    """Open a feature file, and append box terms if its regions are six values short of `expected_dim`.

    Raises `UserError` for a file that `open_features` refuses, or for vectors of another width.
    """
    return widened(open_features(path), expected_dim)


def widened(features: FeatureStore, expected_dim: int) -> FeatureStore:
    """Return `features`, with box terms appended if its regions are six values short of `expected_dim`.

    Raises `UserError` for vectors of another width.
    """
    if features.max_regions is not None and features.dim == expected_dim - BOX_TERMS:
        return BoxTermFeatures(features)
    if features.dim != expected_dim:
        raise UserError(
            f"{features.path}: features are {features.dim} wide, but INPUT.IMG_FEATURE_DIM is "
            f"{expected_dim}: add INPUT.IMG_FEATURE_DIM={features.dim} (a trained model keeps its own width)"
        )
    return features
