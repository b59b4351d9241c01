"""Stores the scores of pairs in a file for each block, so that a killed evaluation resumes."""

import shutil
import time
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np

from config.errors import UserError
from config.files.whole import replacing
from engine.weights.tensor_files import read_metadata, read_safetensors, save_safetensors

_WAIT_SECONDS = 0.2
_DAMAGED = {
    "problem": "damaged scores",
    "remedy": ": delete this file and start the same command again, which scores that block alone",
}

# The metadata that a shard and the evaluation that reads it have in common, and the words for a difference.
IDENTITY = {
    "checkpoint": "another checkpoint",
    "model": "another configuration of the model",
    "data": "other data",
    "pairs": "other pairs (another split, other EVAL.FOLDS or EVAL.BLOCK_PAIRS, or other candidates)",
}


class ScoreStore(Protocol):
    """A store of the scores of blocks."""

    def missing(self) -> list[int]:
        """Return the blocks without scores, in order."""

    def write(self, block: int, scores: np.ndarray) -> None:
        """Keep the scores of a block, float32 [P]."""

    def read(self, block: int) -> np.ndarray:
        """Return the scores of a block."""


class MemoryScores:
    """A store of the scores of `blocks` blocks in memory."""

    def __init__(self, blocks: int) -> None:
        self._scores: list[np.ndarray | None] = [None] * blocks

    def missing(self) -> list[int]:
        """Return the blocks without scores, in order."""
        return [block for block, scores in enumerate(self._scores) if scores is None]

    def write(self, block: int, scores: np.ndarray) -> None:
        """Keep the scores of a block, float32 [P]."""
        self._scores[block] = scores

    def read(self, block: int) -> np.ndarray:
        """Return the scores of a block."""
        return self._scores[block]


class ScoreShards:
    """A store of the scores of `blocks` blocks in files of `folder`, which several processes may fill.

    A file appears whole or not at all. `identity` has a value for each key of `IDENTITY`, which every shard
    repeats. The constructor and every method raise UserError for a shard of another evaluation, a damaged
    shard, and a disk that refuses.
    """

    def __init__(self, folder: str | Path, identity: dict[str, str], blocks: int) -> None:
        assert identity.keys() == IDENTITY.keys(), identity.keys()
        self.folder, self._identity, self._blocks = Path(folder), identity, blocks
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write scores into {self.folder}: {error.strerror}; name another folder with --out"
            ) from error
        for path in sorted(self.folder.glob("block_*.safetensors")):
            self._check_identity(path, read_metadata(path, **_DAMAGED))

    def missing(self) -> list[int]:
        """Return the blocks without scores, in order."""
        return [block for block in range(self._blocks) if not self._path(block).is_file()]

    def write(self, block: int, scores: np.ndarray) -> None:
        """Keep the scores of a block, float32 [P]."""
        metadata = {**self._identity, "crc32": str(zlib.crc32(scores.tobytes()))}
        path = self._path(block)
        try:
            with replacing(path) as draft:
                save_safetensors(draft, {"scores": scores}, metadata)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; the scores before it are kept: free some space, "
                "then start the same command again"
            ) from error

    def read(self, block: int) -> np.ndarray:
        """Return the scores of a block, float32 [P]."""
        path = self._path(block)
        metadata = read_metadata(path, **_DAMAGED)
        self._check_identity(path, metadata)
        tensors = read_safetensors(path, **_DAMAGED)
        if "scores" not in tensors:
            raise UserError(f"{path}: {_DAMAGED['problem']} (it holds none){_DAMAGED['remedy']}")
        scores = tensors["scores"]
        if metadata.get("crc32") != str(zlib.crc32(scores.tobytes())):
            raise UserError(f"{path}: {_DAMAGED['problem']} (its checksum differs){_DAMAGED['remedy']}")
        return scores

    def wait(self) -> None:
        """Wait until every block has its scores, some of which other processes may be making."""
        left = self.missing()
        while left:
            time.sleep(_WAIT_SECONDS)
            left = [block for block in left if not self._path(block).is_file()]

    def delete(self) -> None:
        """Delete the folder, once the evaluation is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: int) -> Path:
        return self.folder / f"block_{block:07d}.safetensors"

    def _check_identity(self, path: Path, metadata: dict[str, str]) -> None:
        for key, what in IDENTITY.items():
            if metadata.get(key) != self._identity[key]:
                raise UserError(
                    f"{path}: the scores of {what}, left by an evaluation that did not end: end that one, or "
                    f"delete the folder {self.folder}"
                )
