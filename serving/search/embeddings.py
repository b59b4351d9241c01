"""A file of embeddings: rows with their names, and the model that made them."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.whole import writing


@dataclass(frozen=True)
class Embeddings:
    """Embeddings `vectors`, float32 [N,D], of images or sentences.

    `ids` [N] are names of images; the id of a caption is that of its image, and of a query its number, from
    1. `texts` [N] are the sentences, empty for images. `checkpoint` is the SHA-256 of the weights, and
    `measure` the similarity by which vectors are compared.
    """

    vectors: np.ndarray
    ids: list[str]
    texts: list[str]
    checkpoint: str
    measure: str


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write embeddings as a .npz file with an array for each field, whole or not at all."""
    arrays = {
        "vectors": embeddings.vectors,
        "ids": np.array(embeddings.ids, dtype=str),
        "texts": np.array(embeddings.texts, dtype=str),
        "checkpoint": np.array(embeddings.checkpoint),
        "measure": np.array(embeddings.measure),
    }
    with writing(path) as draft, open(draft, "wb") as file:
        np.savez(file, **arrays)


def read_embeddings(path: Path) -> Embeddings:
    """Read what `write_embeddings` wrote; raise UserError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors = np.asarray(file["vectors"], np.float32)
            texts = [file[name].tolist() for name in ("ids", "texts", "checkpoint", "measure")]
        found = Embeddings(vectors, *texts)
        if vectors.ndim != 2 or len(found.ids) != len(vectors) or not np.isfinite(vectors).all():
            raise ValueError(f"{vectors.shape} vectors, {len(found.ids)} ids")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected embeddings that tools/encode.py wrote ({' '.join(str(error).split())[:80]}): "
            "write them again"
        ) from error
    return found
