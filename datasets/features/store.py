"""The interface of all files of image features: rows are read by position, and no file is loaded whole."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from datasets.text_files import refuse_duplicates

FLOATS = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))
_CHUNK_VALUES = 1 << 18  # values that are converted at a time: 1 MB as float32, small enough for the cache
_BLOCK_BYTES = 4 << 20  # bytes per read when the whole file is streamed
_CHECKED_AHEAD_BYTES = 2 << 30  # features that are checked before training: a disk reads so many in seconds


@dataclass(frozen=True)
class Annotations:
    """What a detector says about an image; None stands for what the file does not say.

    `boxes` (float32 [R,4]) are x1, y1, x2, y2 in pixels, one row per region. `tags` are the names of what was
    detected, and `confidences` (float32 [tags]) belong to them. If there are as many tags as regions, each
    tag belongs to the region at its place. `image_size` is width and height in pixels.
    """

    boxes: np.ndarray | None = None
    tags: list[str] | None = None
    confidences: np.ndarray | None = None
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class ImageRegions(Annotations):
    """An image's features, float32 [R,F] or, for one global vector, [F], with its annotations."""

    features: np.ndarray | None = None


class FeatureStore(ABC):
    """The features of images by row, in any format; threads and processes may read a store together.

    `path` is the file, `dim` the width F of a vector, and `dtype` the type of stored vectors. `max_regions`
    is the largest number of regions of an image; None stands for one global vector per image. `image_ids` are
    the names of the rows, and `row_of` maps each name to its row; both are None if the file names no rows.
    `extraction` is how tools/extract_features.py made the vectors (`engine/extraction/recorded.py`), None if
    the file does not say. In messages, `row` is the word for a row, and `mend` tells what to do about an
    image without one.
    """

    path: Path
    dim: int
    dtype: np.dtype
    max_regions: int | None
    image_ids: list[str] | None = None
    row_of: dict[str, int] | None = None
    extraction: dict | None = None
    row = "row"
    mend = "extract its features and add its id"

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row, int64 [B]; 1 for global features."""

    @abstractmethod
    def annotations(self, row: int) -> Annotations:
        """Return a row's boxes, tags and image size without reading its features."""

    @abstractmethod
    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the vectors of rows [B] one after another: [sum of counts, F], of a type of `FLOATS`."""

    def _place(self, row: int) -> str:
        """Return where in the file a row stands, for messages."""
        return f"row {row + 1}"

    def __getitem__(self, row: int) -> ImageRegions:
        """Return an image's features with its annotations."""
        features = self.gather(np.array([row]), pool=False)[0]
        if self.max_regions is not None:
            features = features[: self.counts(np.array([row]))[0]]
        notes = self.annotations(row)
        return ImageRegions(notes.boxes, notes.tags, notes.confidences, notes.image_size, features)

    def gather(self, rows: np.ndarray, pool: bool) -> np.ndarray:
        """Read the features of some rows, in the given order.

        `rows` is int [B], 0-based. Returns float32 [B,F] for global features, and for the mean of each
        image's regions if `pool`, which is 0 for an image without regions; otherwise float32 [B,R,F], padded
        with zeros to the largest number of regions among these rows, or to 1. Raises `UserError` that names a
        row that holds NaN or infinity.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a file with {len(self)} rows")
        counts = self.counts(rows)
        most = int(counts.max(initial=1))
        flat = pool or self.max_regions is None
        # np.zeros would not come from huge pages: its page faults cost as much as the reading.
        out = np.empty((len(rows), self.dim) if flat else (len(rows), most, self.dim), dtype=np.float32)
        step = max(1, _CHUNK_VALUES // (most * self.dim))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            if self.max_regions is None:
                self.vectors(rows[part], out[part])
            elif pool:
                values = _padded(self.vectors(rows[part]), counts[part])  # [b,r,F]
                out[part] = values.sum(axis=1) / np.maximum(counts[part, None], 1).astype(np.float32)
            elif (counts[part] == most).all():
                self.vectors(rows[part], out[part].reshape(-1, self.dim))
            else:
                for place in range(start, min(start + step, len(rows))):
                    self.vectors(rows[place : place + 1], out[place, : counts[place]])
                    out[place, counts[place] :] = 0
        return out

    def vectors(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Read the vectors of some rows one after another: float32 [sum of their counts, F].

        `rows` is int [B], 0-based. `out` is an array of that shape that receives them. Raises `UserError`
        that names a row that holds NaN or infinity.
        """
        counts = self.counts(rows)
        raw = self._read(rows, counts)
        if raw.dtype == np.float16 and raw.size:
            # NumPy's isfinite is slow on float16; NaN and infinity are the values with all exponent bits set
            all_finite = raw.view(np.int16).max() < 0x7C00 and raw.view(np.uint16).max() < 0xFC00
            values, checked = half_to_single(raw, out), raw
        else:
            with np.errstate(
                over="ignore"
            ):  # a value too large for float32 becomes infinite and is refused below
                values = checked = raw.astype(np.float32, copy=False)
            all_finite = np.isfinite(values).all()
            if out is not None:
                out[:] = values
        if not all_finite:  # `half_to_single` makes numbers of NaN and infinity, so `checked` is searched
            vector = np.flatnonzero(~np.isfinite(checked).all(axis=1))[0]
            row = rows[np.searchsorted(np.cumsum(counts), vector, side="right")]
            raise UserError(
                f"{self.path}: {self._place(row)} holds NaN or infinity, expected finite numbers: "
                "extract that image's features again"
            )
        return values

    def check(self, rows: np.ndarray | None = None) -> None:
        """Check rows (None: all) for NaN and infinity, if they take no more than 2 GB.

        Raises `UserError` that names such a row. More data would take minutes; rows are also checked whenever
        they are read.
        """
        share = 1.0 if rows is None else len(rows) / len(self)
        if self.path.stat().st_size * share > _CHECKED_AHEAD_BYTES:
            return
        for block in self.blocks(rows):
            self.vectors(block)

    def moments(self, rows: np.ndarray | None = None, pool: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and (population) standard deviation over rows (None: all), or over all their regions.

        `pool` averages an image's regions first. Returns float32 [F] and float32 [F]. The file is streamed,
        and its blocks are merged in float64 (Chan, Golub and LeVeque 1983, eq. 2.1), because a sum of squares
        would cancel.
        """
        count, mean, spread = 0, np.zeros(self.dim), np.zeros(self.dim)
        for block in self.blocks(rows):
            values = (self.gather(block, pool=True) if pool else self.vectors(block)).astype(np.float64)
            if not len(values):  # images without regions
                continue
            block_mean = values.mean(axis=0)
            shift = block_mean - mean
            total = count + len(values)
            spread += (
                np.square(values - block_mean).sum(axis=0) + np.square(shift) * count * len(values) / total
            )
            mean += shift * len(values) / total
            count = total
        return mean.astype(np.float32), np.sqrt(spread / count).astype(np.float32)

    def repeats_previous(self) -> np.ndarray:
        """Return whether each row's vectors equal those of the row before bit for bit: bool [N], first False.

        Some files repeat the row of an image for each of its captions.
        """
        repeats = np.zeros(len(self), dtype=bool)
        for rows in self.blocks():
            rows = np.arange(max(rows[0] - 1, 0), rows[-1] + 1)  # with the row above
            counts = self.counts(rows)
            raw = _padded(self._read(rows, counts), counts).reshape(len(rows), -1)
            raw = raw.view(f"u{raw.dtype.itemsize}")
            repeats[rows[1:]] = (counts[1:] == counts[:-1]) & (raw[1:] == raw[:-1]).all(axis=1)
        return repeats

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield rows (None: all) in the order of the file, a few megabytes at a time."""
        ordered = np.arange(len(self)) if rows is None else np.sort(rows)
        step = max(1, _BLOCK_BYTES // ((self.max_regions or 1) * self.dim * self.dtype.itemsize))
        for start in range(0, len(ordered), step):
            yield ordered[start : start + step]

    def describe(self, rows: np.ndarray | None = None) -> str:
        """Return what the rows (None: all) hold, such as `10 to 100 regions x 2048 features`."""
        if self.max_regions is None:
            return f"{self.dim} features"
        counts = self.counts(np.arange(len(self)) if rows is None else rows)
        fewest, most = int(counts.min()), int(counts.max())
        regions = f"{fewest} to {most}" if fewest < most else f"{most}"
        return f"{regions} regions x {self.dim} features"

    def _name_rows(self, path: Path, ids: list[str], place: str = "line {}") -> None:
        """Set the ids of all rows, each of which stands at `place` in `path`; refuse an id that repeats."""
        self.image_ids, self.row_of = ids, refuse_duplicates(path, ids, place)

    def _check_width(self, expected_dim: int | None) -> None:
        if expected_dim is not None and expected_dim != self.dim:
            raise UserError(
                f"{self.path}: features are {self.dim} wide, but INPUT.IMG_FEATURE_DIM is {expected_dim}: "
                f"add INPUT.IMG_FEATURE_DIM={self.dim} (a trained model keeps its own width)"
            )


def image_size(width: float | str | bytes, height: float | str | bytes) -> tuple[int, int]:
    """Return an image's width and height as whole numbers; raise ValueError below 0 and from 2^31 on."""
    size = int(width), int(height)
    if not 0 <= min(size) <= max(size) < 1 << 31:
        raise ValueError("no width and height")
    return size


def read_extraction(text: str, path: Path) -> dict:
    """Return the record of an extraction that JSON `text` in `path` holds; raise `UserError` for another."""
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected the record of an extraction in JSON: extract the features again")
    return record


def _padded(vectors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return vectors [sum of counts, F] as [B,R,F], padded with zeros."""
    most = int(counts.max())
    if (counts == most).all():
        return vectors.reshape(len(counts), most, vectors.shape[1])
    padded = np.zeros((len(counts), most, vectors.shape[1]), dtype=vectors.dtype)
    padded[np.arange(most) < counts[:, None]] = vectors
    return padded


def half_to_single(half: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return finite float16 as float32, exactly, some five times as fast as `astype`.

    The sign, exponent and mantissa are shifted to their places in a float32. The biases of the exponents
    differ by 112; a product with 2^112 corrects that, for subnormal numbers too. NaN and infinity come out
    wrong.
    """
    single = np.empty(half.shape, np.float32) if out is None else out
    bits = single.view(np.int32)
    bits[:] = half.view(np.int16)  # widening repeats the sign bit
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign, five exponent bits and the mantissa
    single *= np.float32(2.0**112)
    return single
