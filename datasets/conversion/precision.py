"""Precision of stored vectors: float32, float16, or int8 with a scale for each, and its error."""

from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from datasets.features.store import FeatureStore

STORED = ("float32", "float16", "int8")


def encode(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return float32 vectors [V,F] as `dtype`, and for int8 their scales float32 [V], else None.

    int8: value = scale x integer in -127..127, with scale = largest absolute value of the vector / 127. A
    value too large for float16 becomes infinite; the caller must refuse it.
    """
    if dtype != "int8":
        with np.errstate(over="ignore"):
            return vectors.astype(dtype, copy=False), None
    scales = np.abs(vectors).max(axis=1) / np.float32(127)  # [V]
    divisors = np.where(scales > 0, scales, np.float32(1))
    integers = np.rint(vectors / divisors[:, None]).clip(-127, 127)
    return integers.astype(np.int8), scales


def decode(stored: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """Return stored vectors [V,F] as a reader gets them: float32 [V,F]."""
    return stored.astype(np.float32) if scales is None else stored * scales[:, None]


@dataclass
class Deviation:
    """The error of stored values against their source.

    `largest` and `total` are the maximum and the sum of the absolute errors of `count` values;
    `largest_share` and `total_share` are the same for errors relative to the largest absolute value of a
    value's vector. `exact` is true if no bit differs.
    """

    exact: bool = True
    largest: float = 0.0
    largest_share: float = 0.0
    total: float = 0.0
    total_share: float = 0.0
    count: int = 0

    def add(self, source: np.ndarray, stored: np.ndarray) -> None:
        """Add vectors [V,F] of the source and the stored ones, both float32."""
        self.count += source.size
        if np.array_equal(source.view(np.uint32), stored.view(np.uint32)):
            return
        self.exact = False
        error = np.abs(source.astype(np.float64) - stored)
        scale = np.abs(source).max(axis=1, keepdims=True).astype(np.float64)
        share = error / np.where(scale > 0, scale, 1)
        self.largest = max(self.largest, float(error.max()))
        self.largest_share = max(self.largest_share, float(share.max()))
        self.total += float(error.sum())
        self.total_share += float(share.sum())

    def describe(self) -> str:
        """Return one line for the user."""
        if self.exact:
            return f"all {self.count} values equal the source's, bit for bit"
        return (
            f"largest error {self.largest:.2g}, mean {self.total / self.count:.2g}; relative to the largest "
            f"value of its vector: largest {100 * self.largest_share:.2g}%, "
            f"mean {100 * self.total_share / self.count:.2g}%"
        )


def compare(
    source: FeatureStore,
    stored: FeatureStore,
    ids: list[str] | None,
    dtype: str,
    progress: ShowProgress = no_progress,
) -> Deviation:
    """Compare a stored copy with its source, ids and annotations included; return the deviation.

    Each stored value must be, bit for bit, what `dtype` makes of the source's value. Raises `UserError` that
    names a row for which this is not so.
    """
    deviation = Deviation()
    pairs = zip(ids or [], stored.image_ids or [], strict=False)
    counts = [store.counts(np.arange(len(source))) for store in (source, stored)]
    if (ids is None) != (stored.image_ids is None) or not np.array_equal(*counts):
        raise _not_kept(stored, 0, "ids or numbers of regions")
    for row, (given, kept) in enumerate(pairs):
        if given != kept:
            raise _not_kept(stored, row, "ids")
    for rows in source.blocks():
        values, found = source.vectors(rows), stored.vectors(rows)
        expected = decode(*encode(values, dtype))
        differs = (expected.view(np.uint32) != found.view(np.uint32)).any(axis=1)
        if differs.any():
            ends = np.cumsum(source.counts(rows))
            raise _not_kept(stored, rows[np.searchsorted(ends, differs.argmax(), side="right")], "features")
        deviation.add(values, found)
        for row in rows.tolist():
            _compare_annotations(source, stored, row)
        progress("comparing", int(rows[-1]) + 1, len(source))
    return deviation


def _compare_annotations(source: FeatureStore, stored: FeatureStore, row: int) -> None:
    """Compare those annotations of an image that the target has stored."""
    given, kept = source.annotations(row), stored.annotations(row)
    pairs = {
        "boxes": (given.boxes, kept.boxes),
        "tags": (given.tags or [], kept.tags),
        "confidences": (given.confidences, kept.confidences),
        "image size": (given.image_size, kept.image_size),
    }
    for name, (before, after) in pairs.items():
        if after is not None and not np.array_equal(before if before is not None else [], after):
            raise _not_kept(stored, row, name)


def _not_kept(stored: FeatureStore, row: int, what: str) -> UserError:
    return UserError(
        f"{stored.path}: {what} of row {row + 1} are not what was written: the source changed meanwhile, "
        "or the disk fails: convert again"
    )
