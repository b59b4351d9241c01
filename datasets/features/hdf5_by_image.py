"""Image features in HDF5 with data sets of their own for each image, as in `coco_detections.hdf5`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError, cut
from datasets.features.hdf5 import BROKEN_HDF5, open_hdf5
from datasets.features.hdf5_claims import can_hold
from datasets.features.positional import PositionalFile
from datasets.features.store import FLOATS, Annotations, FeatureStore

if TYPE_CHECKING:
    import h5py

_FEATURES, _BOXES = "_features", "_boxes"


class Hdf5ByImage(FeatureStore):
    """The features of images in an HDF5 file with data sets `ID_features` and `ID_boxes` for each image.

    `ID_features` are [R,F], or [F] for a global vector, and `ID_boxes`, which may be missing, [R,4]: x1, y1,
    x2, y2. This is the layout of the detections that meshed-memory-transformer and others publish. Rows are
    in the order of the ids: by number, if all ids are numbers.
    h5py reads them, one thread at a time: convert the file for speed. Raises `UserError` for a file with
    vectors of several widths, or that are not `expected_dim` wide.
    """

    def __init__(self, path: str | Path, expected_dim: int | None = None) -> None:
        self.path = Path(path)
        self._opened: tuple[int, h5py.File] | None = None  # the process that opened it, and the file
        with open_hdf5(self.path) as file:
            ids = [name[: -len(_FEATURES)] for name in file if name.endswith(_FEATURES)]
            ids.sort(key=(lambda name: int(name)) if all(map(_is_number, ids)) else None)
            shapes = [self._shape(file, image_id) for image_id in ids]
        self.dtype = np.dtype(np.float32)
        self.dim = shapes[0][-1]
        other = next((row for row, shape in enumerate(shapes) if shape[-1] != self.dim), None)
        if other is not None:
            raise self._refused(
                ids[other], f"{shapes[other][-1]} wide", f"{self.dim}, as those of {ids[0]!r}"
            )
        if len({len(shape) for shape in shapes}) > 1:
            raise UserError(
                f"{self.path}: some images have one vector and others regions: extract one kind of features"
            )
        self._counts = np.array([shape[0] if len(shape) == 2 else 1 for shape in shapes], dtype=np.int64)
        self.max_regions = int(self._counts.max()) if len(shapes[0]) == 2 else None
        if self.max_regions == 0:
            raise UserError(f"{self.path}: no image has a region: extract the features again")
        self._check_width(expected_dim)
        self._name_rows(self.path, ids, "image {}")

    def __reduce__(self) -> tuple[type, tuple]:
        return Hdf5ByImage, (self.path,)

    @staticmethod
    def is_layout_of(path: str | Path) -> bool:
        """Tell whether a file has this layout, and not that of `Hdf5Features`."""
        with open_hdf5(Path(path)) as file:
            return "features" not in file and any(name.endswith(_FEATURES) for name in file)

    def __len__(self) -> int:
        return len(self._counts)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self._counts[rows]

    def annotations(self, row: int) -> Annotations:
        """Return a row's boxes, if the file holds them."""
        name = self.image_ids[row] + _BOXES
        if self.max_regions is None or name not in self._file:
            return Annotations()
        boxes = self._values(name)
        if boxes.shape != (self._counts[row], 4) or not np.isfinite(boxes).all():
            raise UserError(
                f"{self.path}: {name} are {list(boxes.shape)}, expected finite numbers "
                f"[{self._counts[row]}, 4]: extract that image again"
            )
        return Annotations(boxes)

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = [self._values(self.image_ids[row] + _FEATURES) for row in rows.tolist()]
        return np.concatenate([each.reshape(-1, self.dim) for each in values])

    @property
    def _file(self) -> "h5py.File":
        import h5py

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self.path, "r", locking=False)
        return self._opened[1]

    def _values(self, name: str) -> np.ndarray:
        try:
            data = self._file[name]
            if not can_hold(PositionalFile(self.path), data):
                raise ValueError(f"{list(data.shape)} is more than the file can hold")
            with np.errstate(over="ignore"):  # what becomes infinite is refused
                return np.asarray(data[()], dtype=np.float32)
        except BROKEN_HDF5 as error:
            raise UserError(f"{self.path}: {name} cannot be read: copy the file again") from error

    def _shape(self, file: "h5py.File", image_id: str) -> tuple[int, ...]:
        import h5py

        data = file.get(image_id + _FEATURES)
        fits = isinstance(data, h5py.Dataset) and data.shape is not None and len(data.shape) in (1, 2)
        if not fits or data.dtype.newbyteorder("=") not in FLOATS or not data.shape[-1]:
            is_data = isinstance(data, h5py.Dataset)
            found = f"{data.dtype} {list(data.shape or ())}" if is_data else "no data set"
            raise self._refused(image_id, found, "floats [regions, features]")
        return data.shape

    def _refused(self, image_id: str, found: str, expected: str) -> UserError:
        return UserError(
            f"{self.path}: the features of {cut(image_id)!r} are {found}, expected {expected}: extract them "
            "again"
        )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
