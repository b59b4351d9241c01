"""Image features in HDF5: one array of the vectors of all images, and the offsets of each image's vectors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError, cut, some
from config.files.kinds import mistaken_kind
from datasets.features.hdf5_claims import can_hold
from datasets.features.positional import PackedArray, PositionalFile, ShortReadError, unreadable
from datasets.features.store import FLOATS, Annotations, FeatureStore, image_size, read_extraction

if TYPE_CHECKING:
    import h5py

INT8 = np.dtype("int8")
# What h5py raises for damaged files.
BROKEN_HDF5 = (
    *(OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError),
    MemoryError,
)


class Hdf5Features(FeatureStore):
    """The features of images in an HDF5 file.

    The file holds these data sets, of which only `features` (and `scales` with int8) are required:
    `features` [V,F], float16, float32, float64 or int8, are all vectors, in the order of the images.
    `scales` [V] are the factors of int8 vectors.
    `offsets` [N+1] give image i the vectors offsets[i] to offsets[i+1] - 1; without offsets, each vector is
    the global one of an image.
    `ids` [N] are texts, `boxes` [V,4] are x1, y1, x2, y2, and `image_sizes` [N,2] are width and height.
    `tag_names` [K] are texts, `tags` [T] are indices into them, `confidences` [T] belong to the tags, and
    `tag_offsets` [N+1] give each image its run of both.
    The attribute `extraction` tells in JSON how the vectors were extracted.

    h5py reads the small data sets. Vectors are read by position from the file itself, because h5py admits one
    thread at a time and is slow at small reads; only chunked data sets are left to h5py.
    Raises `UserError` for a file that is missing, truncated or of another layout, or with vectors that are
    not `expected_dim` wide.
    """

    def __init__(self, path: str | Path, expected_dim: int | None = None) -> None:
        self.path = Path(path)
        self._file = PositionalFile(self.path)
        with open_hdf5(self.path) as file:
            self._features = self._rows(file, "features", None, 2)
            num_vectors, self.dim = self._features.shape
            self.dtype = self._features.dtype
            if self.dtype not in (*FLOATS, INT8) or 0 in self._features.shape:
                raise self._refused(
                    f"features are {self.dtype} {list(self._features.shape)}",
                    "vectors of float16, float32, float64 or int8",
                )
            self._offsets = self._read_offsets(file, "offsets", num_vectors)  # an image may have no region
            self._scales = self._rows(file, "scales", num_vectors, 1) if self.dtype == INT8 else None
            self._boxes = self._rows(file, "boxes", num_vectors, 2) if "boxes" in file else None
            if self._boxes and self._boxes.shape[1] != 4:
                raise self._refused(f"boxes are {self._boxes.shape[1]} wide", "x1, y1, x2, y2")
            self.max_regions = None if self._offsets is None else int(np.diff(self._offsets).max())
            self._num_images = num_vectors if self._offsets is None else len(self._offsets) - 1
            self._sizes = self._rows(file, "image_sizes", len(self), 2) if "image_sizes" in file else None
            self._read_tag_layout(file)
            ids = self._read_texts(file, "ids", len(self)) if "ids" in file else None
            if "extraction" in file.attrs:
                self.extraction = read_extraction(file.attrs["extraction"], self.path)
        self._check_width(expected_dim)
        if ids is not None:
            self._name_rows(self.path, ids, "row {} of ids")

    def __len__(self) -> int:
        return self._num_images

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        if self._offsets is None:
            return np.ones(len(rows), dtype=np.int64)
        return self._offsets[np.asarray(rows) + 1] - self._offsets[rows]

    def annotations(self, row: int) -> Annotations:
        """Return a row's boxes, tags and image size."""
        rows = np.array([row])
        one = np.ones(1, dtype=np.int64)
        boxes = tags = confidences = size = None
        if self._boxes:
            boxes = self._read_of(rows, self._boxes, *self._runs(rows)).astype(np.float32)
        if self._sizes:
            width, height = self._read_of(rows, self._sizes, rows, one)[0].tolist()
            try:
                size = image_size(width, height)
            except (ValueError, OverflowError) as error:
                found = f"image_sizes of row {row + 1} are {width} x {height}"
                raise self._refused(found, "width and height in pixels") from error
        if self._tags:
            run = self._tag_offsets[rows], self._tag_offsets[rows + 1] - self._tag_offsets[rows]
            codes = self._read_of(rows, self._tags, *run)[:, 0]
            if len(codes) and not 0 <= codes.min() <= codes.max() < len(self._tag_names):
                raise self._refused(f"tags of row {row + 1} outside of tag_names", "an index into it")
            tags = [self._tag_names[code] for code in codes]
            if self._confidences:
                confidences = self._read_of(rows, self._confidences, *run)[:, 0].astype(np.float32)
        return Annotations(boxes, tags, confidences, size)

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = self._read_of(rows, self._features, *self._runs(rows))
        if self._scales is None:
            return values
        return values * self._read_of(rows, self._scales, *self._runs(rows)).astype(
            np.float32
        )  # [V,F] * [V,1]

    def _runs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first vector of each row, and the number of its vectors."""
        return rows if self._offsets is None else self._offsets[rows], self.counts(rows)

    def _read_of(
        self, rows: np.ndarray, array: "PackedArray | ChunkedArray", starts: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """Read one run of an array for each of `rows`, the images that the runs belong to."""
        try:
            return array.read(starts, counts)
        except ShortReadError as error:
            row = rows[error.run] + 1
            raise UserError(
                f"{self.path}: row {row} ends too early: the file shrank, copy it again"
            ) from error

    def _rows(
        self, file: "h5py.File", name: str, length: int | None, axes: int
    ) -> "PackedArray | ChunkedArray":
        """Return a numeric data set as an array `[length,width]`; a data set with one axis has width 1."""
        data = self._dataset(file, name)
        if data.dtype.kind not in "fiu" or data.ndim != axes or length not in (None, data.shape[0]):
            shape = f"{list(data.shape)} {data.dtype}"
            raise self._refused(
                f"{name} is {shape}", f"numbers with {axes} axes, {length or 'any number of'} rows"
            )
        shape = (data.shape[0], data.shape[1] if axes == 2 else 1)
        offset = None if data.chunks or data.external or data.is_virtual else data.id.get_offset()
        whole = offset is not None and data.id.get_storage_size() == data.nbytes
        if whole and data.dtype.isnative and not file.userblock_size:
            if offset + data.nbytes > self._file.size():
                raise self._refused(f"{name} is cut short", f"{offset + data.nbytes} bytes")
            return PackedArray(self._file, offset, shape, data.dtype)
        return ChunkedArray(self.path, name, shape, data.dtype.newbyteorder("="))

    def _read_offsets(self, file: "h5py.File", name: str, end: int) -> np.ndarray | None:
        if name not in file:
            return None
        offsets = self._dataset(file, name)[()]
        if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
            raise self._refused(
                f"{name} is {list(offsets.shape)} {offsets.dtype}", "whole numbers [images + 1]"
            )
        offsets = offsets.astype(np.int64)
        wrong = np.flatnonzero(np.diff(offsets) < 0)
        if offsets[0] != 0 or len(wrong):
            row = 0 if offsets[0] != 0 else int(wrong[0])
            raise self._refused(
                f"{name} of row {row + 1} are {offsets[row]} to {offsets[row + 1]}",
                "numbers that rise from 0",
            )
        if offsets[-1] != end:
            raise self._refused(f"{name} of row {len(offsets) - 1} end at {offsets[-1]}", f"the end, {end}")
        return offsets

    def _read_tag_layout(self, file: "h5py.File") -> None:
        self._tags = self._confidences = None
        if "tags" not in file:
            return
        num_tags = len(self._dataset(file, "tags"))
        self._tags = self._rows(file, "tags", num_tags, 1)
        self._tag_names = self._read_texts(file, "tag_names", None)
        self._tag_offsets = self._read_offsets(file, "tag_offsets", num_tags)
        if self._tag_offsets is None or len(self._tag_offsets) != len(self) + 1:
            raise self._refused("tags without tag_offsets of each image", f"tag_offsets [{len(self) + 1}]")
        if "confidences" in file:
            self._confidences = self._rows(file, "confidences", num_tags, 1)

    def _read_texts(self, file: "h5py.File", name: str, length: int | None) -> list[str]:
        data = self._dataset(file, name)
        if data.ndim != 1 or length not in (None, len(data)):
            raise self._refused(f"{name} is {list(data.shape)}", f"{length or 'one line of'} texts")
        try:
            texts = data[()] if data.dtype.kind in "iu" else data.asstr("utf-8")[()]
        except (TypeError, UnicodeDecodeError) as error:
            raise self._refused(f"{name} is {data.dtype} ({error})", "text in UTF-8") from error
        return [str(text) for text in texts]

    def _dataset(self, file: "h5py.File", name: str) -> "h5py.Dataset":
        import h5py

        data = file.get(name)
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise self._refused(f"no data set {name!r} among {some(file) or 'none'}", "our layout")
        if not can_hold(self._file, data):
            raise self._refused(f"{name} is {list(data.shape)}", "no more than the file can hold")
        return data

    def _refused(self, found: str, expected: str) -> UserError:
        return UserError(
            f"{self.path}: {found}, expected {expected}: write it with tools/convert_features.py, "
            "or as docs/data.md says"
        )


class ChunkedArray:
    """A data set `[rows,width]` that h5py reads; each process opens the file for itself."""

    def __init__(self, path: Path, name: str, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype
        self._opened: tuple[int, h5py.Dataset] | None = None  # the process that opened it, and what it opened

    def __reduce__(self) -> tuple[type, tuple]:
        return ChunkedArray, (self.path, self.name, self.shape, self.dtype)

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Read runs of rows, `counts` [B] rows from each of `starts` [B] on: [sum of counts, width]."""
        import h5py

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self.path, "r", locking=False)[self.name])
        data = self._opened[1]
        out = np.empty((int(counts.sum()), self.shape[1]), dtype=self.dtype)
        end = 0
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            end += count
            try:
                out[end - count : end] = data[start : start + count].reshape(count, self.shape[1])
            except BROKEN_HDF5 as error:
                raise UserError(
                    f"{self.path}: {self.name} cannot be read at row {start + 1} ({cut(error, 60)}): copy it "
                    "again"
                ) from error
        return out


@contextmanager
def open_hdf5(path: Path) -> Iterator["h5py.File"]:
    """Open a file for reading; raise `UserError` if it is no HDF5 file, or truncated."""
    import h5py  # only here, so that users of other formats do not wait for the import

    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise unreadable(path, error) from error
    except OSError as error:
        if "truncated" in str(error):
            problem = "cut short: copy or convert it again"
        else:
            problem = "not an HDF5 file: name one, or convert with tools/convert_features.py"
            problem = mistaken_kind(path) or problem
        raise UserError(f"{path}: {problem}") from error
    with file:
        try:
            yield file
        except BROKEN_HDF5 as error:
            raise UserError(f"{path}: damaged ({cut(error, 80)}): copy or convert it again") from error
