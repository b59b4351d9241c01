"""Open a feature file with the reader of its format."""

from pathlib import Path

from config.errors import UserError
from datasets.features.hdf5 import Hdf5Features
from datasets.features.hdf5_by_image import Hdf5ByImage
from datasets.features.npy import NpyFeatures, beside
from datasets.features.store import FeatureStore
from datasets.features.tsv import TsvFeatures


def open_features(path: str | Path, expected_dim: int | None = None) -> FeatureStore:
    """Open a feature file in the format that its suffix tells: .npy, .h5, .hdf5 or .tsv.

    `X_ids.txt`, if there is one, names the rows of `X_ims.npy`. Raises `UserError` for another suffix, for a
    file that does not hold what its suffix says, and for vectors that are not `expected_dim` wide.
    """
    path = Path(path)
    readers = {".npy": _open_npy, ".h5": _open_hdf5, ".hdf5": _open_hdf5, ".tsv": TsvFeatures}
    if path.suffix == ".gz":
        raise UserError(
            f"{path}: rows of a compressed file cannot be found: gunzip it, or convert it with "
            f"python tools/convert_features.py {path} {path.name.partition('.')[0]}.h5"
        )
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a file of features that ends with {', '.join(readers)}")
    return readers[path.suffix](path, expected_dim)


def _open_hdf5(path: Path, expected_dim: int | None) -> FeatureStore:
    return (Hdf5ByImage if Hdf5ByImage.is_layout_of(path) else Hdf5Features)(path, expected_dim)


def _open_npy(path: Path, expected_dim: int | None) -> NpyFeatures:
    ids_path = beside(path, "ids.txt")
    return NpyFeatures(path, expected_dim, ids_path if ids_path.is_file() else None)
