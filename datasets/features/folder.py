"""Image features in a folder with a `.npy` file for each image, and the reader of one such file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError
from datasets.array_files import BROKEN_NPY, not_npy, read_npy, read_npy_header
from datasets.features.store import Annotations, FeatureStore


class FolderFeatures(FeatureStore):
    """The features of images in files of their own, `[F]` or `[R,F]`; a file's name without `.npy` is the id.

    Each file is read when its image is. The first file tells whether images have regions, and their width.
    Raises `UserError` for a folder without such files, and when a file is read that does not fit.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: str | Path, expected_dim: int | None = None) -> None:
        self.path = Path(path)
        self._files = sorted(self.path.glob("*.npy"))
        if not self._files:
            raise UserError(f"{self.path}: no .npy files, expected one with the features of each image")
        shapes = [_shape(file) for file in self._files]
        self.dim, has_regions = shapes[0][-1], len(shapes[0]) == 2
        self._check_width(expected_dim)
        for file, shape in zip(self._files, shapes, strict=True):
            if len(shape) != len(shapes[0]) or shape[-1] != self.dim or 0 in shape:
                expected = f"[R,{self.dim}]" if has_regions else f"[{self.dim}]"
                raise UserError(
                    f"{file}: expected {expected}, as {self._files[0].name} has it, got {list(shape)}: "
                    "extract both in one way, or move one away"
                )
        self._counts = np.array([shape[0] if has_regions else 1 for shape in shapes], dtype=np.int64)
        self.max_regions = int(self._counts.max()) if has_regions else None
        self._name_rows(self.path, [file.stem for file in self._files], "file {}")

    def __len__(self) -> int:
        return len(self._files)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self._counts[rows]

    def annotations(self, row: int) -> Annotations:
        """Return empty annotations: the files hold vectors alone."""
        return Annotations()

    def check(self, rows: np.ndarray | None = None) -> None:
        """Do nothing: a file is checked when it is read."""

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.concatenate([read_one(self._files[row], self.dim) for row in rows])


def read_one(path: str | Path, width: int) -> np.ndarray:
    """Return the features of one image in a .npy file, [F] or [R,F], as float32 [R,F].

    Raises UserError for a file that cannot be read or is no .npy file, for another width, NaN and infinity.
    """
    features = read_npy(path)
    fits = features.ndim in (1, 2) and features.shape[-1] == width and features.size
    if not fits or features.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: expected numbers of shape [{width}] or [R,{width}], as the model was trained "
            f"on, got {features.dtype} of shape {list(features.shape)}"
        )
    with np.errstate(over="ignore"):  # a value beyond float32's range becomes infinite and is refused below
        regions = features.astype(np.float32).reshape(-1, width)
    broken = np.flatnonzero(~np.isfinite(regions).all(axis=1))
    if len(broken):
        raise UserError(f"{path}: row {broken[0] + 1} holds NaN or infinity, expected finite numbers")
    return regions


def _shape(path: Path) -> Sequence[int]:
    try:
        with open(path, "rb") as file:
            return read_npy_header(file)[0] or (0,)
    except (OSError, *BROKEN_NPY) as error:
        raise not_npy(path, error) from error
