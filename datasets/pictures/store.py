"""Pictures in place of a feature file: reading a row decodes, crops and normalises a picture."""

from pathlib import PurePosixPath

import numpy as np

from config.errors import UserError
from datasets.features.store import Annotations, FeatureStore
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader


class PictureStore(FeatureStore):
    """All pictures of a folder, which captions name by path or by file name, with or without ending.

    `epoch` is the epoch of training, on which random crops depend; it must be set when an epoch begins.
    """

    dtype = np.dtype(np.float32)
    max_regions = None
    dim = 0
    row = "picture"
    mend = "add it, or correct its name"

    def __init__(self, files: PictureFiles, loader: PictureLoader) -> None:
        self.path = files.path
        self.epoch = 0
        self._loader = loader
        self.image_ids = list(loader.names)
        self.row_of = _names(self.image_ids)

    def __len__(self) -> int:
        return len(self.image_ids)

    def gather(self, rows: np.ndarray, pool: bool) -> np.ndarray:
        """Return the pictures of some rows: float32 [B,3,H,W].

        Raises `UserError` that names a picture that cannot be read.
        """
        return self._loader.read(rows, self.epoch).images[:, 0]

    def check(self, rows: np.ndarray | None = None) -> None:
        """Do nothing: decoding all pictures takes minutes, and an unreadable one is named when it is read."""

    def describe(self, rows: np.ndarray | None = None) -> str:
        """Return what the rows hold: pictures."""
        return "pictures"

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return 1 for each row: int64 [B]."""
        return np.ones(len(rows), dtype=np.int64)

    def annotations(self, row: int) -> Annotations:
        """Return empty annotations: nothing is known of a picture."""
        return Annotations()

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        raise UserError(f"{self.path}: pictures have no feature vectors: extract features for this")


def _names(names: list[str]) -> dict[str, int]:
    """Return the row of every name that belongs to one picture only; a whole path always counts."""
    rows: dict[str, int] = {}
    shared: set[str] = set()
    for row, name in enumerate(names):
        path = PurePosixPath(name)
        for known_as in {name, str(path.with_suffix("")), path.name, path.stem}:
            if rows.setdefault(known_as, row) != row:
                shared.add(known_as)
    whole = {name: row for row, name in enumerate(names)}
    return {name: row for name, row in rows.items() if name not in shared} | whole
