"""A file of embeddings: rows with their names, and the model that made them."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.whole import writing
from datasets.array_files import read_npz


@dataclass(frozen=True)
class Embeddings:
    """Embeddings `vectors`, float32 [N,D], of images or sentences.

    `ids` [N] are names of images; the id of a caption is that of its image, and of a query its number, from
    1. `texts` are the N sentences, none for images. `checkpoint` is the SHA-256 of the weights, and
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
    remedy = "expected embeddings that tools/encode.py wrote: write them again"
    names = [each.name for each in fields(Embeddings)]
    arrays = read_npz(path, names, remedy)
    vectors, *texts = (arrays[name] for name in names)
    rows, shapes = vectors.shape[:1], [each.shape for each in texts]
    fits = vectors.ndim == 2 and vectors.dtype.kind in "fiu" and all(each.dtype.kind == "U" for each in texts)
    if not fits or shapes not in ([rows, rows, (), ()], [rows, (0,), (), ()]):
        raise UserError(
            f"{path}: vectors {list(vectors.shape)} of {vectors.dtype}, and {texts[0].size} ids: {remedy}"
        )
    with np.errstate(over="ignore"):  # what is beyond float32's range becomes infinite and is refused below
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise UserError(f"{path}: a vector holds NaN or infinity: {remedy}")
    return Embeddings(vectors, *(each.tolist() for each in texts))
