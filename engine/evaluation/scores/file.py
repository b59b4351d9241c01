"""The file of all scores, from which every metric can be recomputed; it is written tile by tile."""

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from config.errors import UserError
from config.files.whole import draft_name, replacing
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset

_CHUNK_BYTES = 4 << 20


def open_scores(
    path: str | Path | None, dataset: RetrievalDataset | PairDataset
) -> contextlib.AbstractContextManager["ScoreFile | None"]:
    """Return the file at `path` for all scores of `dataset`, as a context; without a path, one of None."""
    return ScoreFile(path, dataset.num_images, dataset.num_captions) if path else contextlib.nullcontext()


def names_in_file(dataset: RetrievalDataset | PairDataset) -> dict[str, Sequence]:
    """Return the captions' ids, if there are some, and the right pairs, if they are not those of the ids."""
    found: dict[str, Sequence] = {}
    if getattr(dataset, "caption_ids", None):
        found["caption_ids"] = dataset.caption_ids
    relevance = dataset.relevance
    if relevance.rule != "image id":
        found |= {"right_images": relevance.images, "right_captions": relevance.captions}
        found["right_rule"] = np.asarray(relevance.rule)
        if relevance.grades is not None:
            found["right_grades"] = relevance.grades
    return found


class ScoreFile:
    """An `.npz` with `scores` float32 [images, captions], `image_ids`, `caption_image_ids` and further ones.

    Use it as a context: `write` in any order, then `save`. Until then the scores are in a plain array file
    beside the target, of which only the tile being written is mapped into memory. `save` makes the target
    appear whole or not at all, and needs the disk space twice. Raises UserError if the disk refuses.
    """

    def __init__(self, path: str | Path, images: int, captions: int):
        self.path = Path(path)
        self._shape = (images, captions)
        self._rows = draft_name(self.path, "npy")

    def __enter__(self) -> "ScoreFile":
        try:
            if self.path.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._reserve()
        except OSError as error:
            self._clean()
            raise self._refusal(error) from error
        return self

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Write `scores` [I,T] of the images and captions at these places."""
        np.load(self._rows, mmap_mode="r+")[np.ix_(images, captions)] = scores

    def write_pairs(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Write `scores` [P] of P pairs of the images and captions at these places."""
        np.load(self._rows, mmap_mode="r+")[images, captions] = scores

    def save(self, image_ids: Sequence[str], caption_image_ids: Sequence[str], **further: Sequence) -> None:
        """Pack the scores, the ids and `further` arrays by name into the target."""
        try:
            with replacing(self.path) as draft:
                self._pack(draft, {"image_ids": image_ids, "caption_image_ids": caption_image_ids, **further})
        except OSError as error:
            raise self._refusal(error) from error

    def _pack(self, path: Path, names: dict[str, Sequence[str]]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.write(self._rows, "scores.npy")
            for name, ids in names.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(ids), allow_pickle=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def _reserve(self) -> None:
        """Fill the array file with zeros: a disk that fills up under a memory map would kill the process."""
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        left = self._shape[0] * self._shape[1] * 4
        with open(self._rows, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            while left:
                left -= file.write(bytes(min(left, _CHUNK_BYTES)))

    def _clean(self) -> None:
        with contextlib.suppress(OSError):  # such as a parent that is no folder
            self._rows.unlink()

    def _refusal(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write the scores to {self.path}: {error.strerror}; they need "
            f"{2 * 4 * self._shape[0] * self._shape[1] / 1e6:.1f} MB while they are written; "
            "name another place with --save_scores"
        )
