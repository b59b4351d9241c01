"""Precomputed image features in a `.npy` file, with boxes and tags in the files beside it."""

import json
import math
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from config.errors import UserError, cut, some
from config.files.kinds import refusal
from datasets.array_files import BROKEN_NPY, read_npy, read_npy_header
from datasets.features.positional import LineFile, PackedArray, PositionalFile, ShortReadError
from datasets.features.store import FLOATS, Annotations, FeatureStore, read_extraction
from datasets.text_files import read_lines, read_text


class NpyFeatures(FeatureStore):
    """The feature rows of one split: `[N,F]` (one vector per image) or `[N,R,F]` (R regions per image).

    Rows are read by position into the batch that needs them. A memory map would be as lazy, but every page of
    it that was ever touched counts as resident memory: after an epoch, the whole file.

    `ids_path` is a file of image ids, one line per row (or per caption) in order; None leaves rows without
    names. Beside `X_ims.npy` (or `X.npy`) may lie `X_boxes.npy` (boxes [N,R,4]), `X_sizes.npy` (width and
    height of each image, [N,2]), `X_tags.txt` (one line of tags per image) and `X_extraction.json`.
    Raises `UserError` for a file that is missing, truncated or of another kind, or with vectors that are not
    `expected_dim` wide.
    """

    def __init__(
        self, path: str | Path, expected_dim: int | None = None, ids_path: Path | None = None
    ) -> None:
        self.path = Path(path)
        self.shape, stored, offset = _read_header(self.path)
        self.dtype = stored.newbyteorder("=")
        self.dim = self.shape[-1]
        self.max_regions = self.shape[1] if len(self.shape) == 3 else None
        self._check_width(expected_dim)
        vectors = (len(self) * (self.max_regions or 1), self.dim)
        self._vectors_in_file = PackedArray(PositionalFile(self.path), offset, vectors, stored)
        if ids_path:
            ids = read_lines(ids_path, "image id")
            if len(ids) != len(self):  # one line per caption: an image repeats its id
                ids = list(dict.fromkeys(ids))
            if len(ids) != len(self):
                raise UserError(
                    f"{ids_path}: {len(ids)} different image ids, expected one for each of the {len(self)} "
                    f"rows of {self.path}: mend the file"
                )
            self._name_rows(ids_path, ids)

        record = beside(self.path, "extraction.json")
        if record.is_file():
            self.extraction = read_extraction(read_text(record), record)

    def __len__(self) -> int:
        return self.shape[0]

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row, the same for all rows: int64 [B]."""
        return np.full(len(rows), self.max_regions or 1, dtype=np.int64)

    def annotations(self, row: int) -> Annotations:
        """Return what `X_boxes.npy`, `X_sizes.npy` and `X_tags.txt` hold for a row."""
        boxes = tags = confidences = None
        if self._boxes is not None:
            boxes = self._boxes.gather(np.array([row]), pool=False)[0]
        if self._tag_lines is not None:
            tags, confidences = _parse_tags(self._tag_lines, row)
        size = None if self._sizes is None else tuple(self._sizes[row].tolist())
        return Annotations(boxes, tags, confidences, size)

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        try:
            vectors = self._vectors_in_file.read(rows * (self.max_regions or 1), counts)
            return vectors.astype(self.dtype, copy=False)
        except ShortReadError as error:
            row = rows[error.run] + 1
            raise UserError(
                f"{self.path}: row {row} ends too early: the file shrank, write it anew"
            ) from error

    @cached_property
    def _boxes(self) -> "NpyFeatures | None":
        path = beside(self.path, "boxes.npy")
        if self.max_regions is None or not path.is_file():
            return None
        boxes = NpyFeatures(path)
        expected = (*self.shape[:2], 4)
        if boxes.shape != expected:
            raise UserError(
                f"{path}: expected boxes {list(expected)} for the regions of {self.path.name}, "
                f"got {list(boxes.shape)}: extract both again"
            )
        return boxes

    @cached_property
    def _sizes(self) -> np.ndarray | None:
        path = beside(self.path, "sizes.npy")
        if not path.is_file():
            return None
        sizes = read_npy(path)
        fits = sizes.dtype.kind in "iu" and sizes.shape == (len(self), 2)
        if not fits or sizes.min() < 0 or sizes.max() >= 1 << 31:
            raise UserError(
                f"{path}: expected the width and height of each image, whole numbers [{len(self)}, 2], got "
                f"{sizes.dtype} {list(sizes.shape)}: write it with numpy.save"
            )
        return sizes

    @cached_property
    def _tag_lines(self) -> LineFile | None:
        path = beside(self.path, "tags.txt")
        if not path.is_file():
            return None
        lines = LineFile(PositionalFile(path))
        if len(lines) != len(self):
            raise UserError(
                f"{path}: {len(lines)} lines, expected one for each of the {len(self)} rows of "
                f"{self.path.name}: mend the file"
            )
        return lines


def beside(path: Path, name: str) -> Path:
    """Return the path of a file that belongs to a `.npy` of features: `X_name` for `X_ims.npy` or `X.npy`."""
    return path.with_name(f"{path.stem.removesuffix('_ims')}_{name}")


def _parse_tags(lines: LineFile, row: int) -> tuple[list[str], np.ndarray | None]:
    """Parse a line of tags: `{"tags": [...], "confidences": [...]}` (the latter optional), or plain words."""
    line = lines.line(row)
    try:
        text = line.decode("utf-8")
        if not text.startswith("{"):
            return text.split(), None
        content = json.loads(text)
        tags = content["tags"]
        if not isinstance(tags, list) or not all(isinstance(tag, str | None) for tag in tags):
            raise TypeError("tags that are no texts")
        named = [place for place, tag in enumerate(tags) if tag is not None]  # null is no tag
        if "confidences" not in content:
            return [tags[place] for place in named], None
        confidences = np.array(content["confidences"], dtype=np.float32)
        if confidences.shape == (len(tags),) and np.isfinite(confidences).all():
            return [tags[place] for place in named], confidences[named]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    raise UserError(
        f"{lines.path} line {row + 1}: expected words, or an object with tags and as many confidences, "
        f"got {line[:40]!r}: mend the line"
    )


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape, the dtype and the offset of the first row; raise `UserError` if data is missing."""
    if not os.path.isfile(path):  # Path.is_file raises OSError for a name that is too long
        found = some(sorted(p.name for p in path.parent.glob("*_ims.npy")))
        raise UserError(
            f"{path}: no such file, expected the features of a split"
            + (
                f"; the folder holds {found}: check DATASET.TRAIN, DEV and TEST"
                if found
                else ": check DATASET.DATA_DIR"
            )
        )
    try:
        with open(path, "rb") as file:
            shape, fortran_order, dtype = read_npy_header(file)
            offset = file.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: mend its permissions") from error
    except BROKEN_NPY as error:
        otherwise = f"not a .npy file ({cut(error, 80)}): write it with numpy.save"
        raise UserError(refusal(path, otherwise)) from error
    if dtype.newbyteorder("=") not in FLOATS:
        found = "numbers without a type, as bfloat16 is saved" if dtype == np.dtype("V2") else dtype
        raise UserError(
            f"{path}: expected float16, float32 or float64, got {found}: convert it with array.astype"
        )
    if fortran_order and min(shape, default=1) > 1:
        raise UserError(f"{path}: expected rows in C order: save numpy.ascontiguousarray(array)")
    if len(shape) not in (2, 3) or 0 in shape:
        raise UserError(
            f"{path}: expected shape [images, features] or [images, regions, features], got {list(shape)}"
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    size = path.stat().st_size
    if size < expected:
        raise UserError(f"{path}: cut short: expected {expected} bytes, got {size}: copy or extract it again")
    return shape, dtype, offset
