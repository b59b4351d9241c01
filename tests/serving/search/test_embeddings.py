"""Files of embeddings come back as they were written, and others are refused in one line."""

import numpy as np
import pytest

from config.errors import UserError
from serving.search.embeddings import Embeddings, read_embeddings, write_embeddings

VECTORS = np.random.default_rng(0).random((3, 4), np.float32)
ARRAYS = {
    "vectors": VECTORS,
    "ids": np.array(["a", "b", "ä"]),
    "texts": np.array([], dtype=str),
    "checkpoint": np.array("0" * 64),
    "measure": np.array("cosine"),
}


@pytest.mark.parametrize("texts", [["one", "two words", "three"], []])
def test_embeddings_come_back(tmp_path, texts):
    made = Embeddings(VECTORS, ["a", "b", "ä"], texts, "0" * 64, "order")
    write_embeddings(tmp_path / "e.npz", made)
    found = read_embeddings(tmp_path / "e.npz")
    assert np.array_equal(found.vectors, VECTORS) and found.vectors.dtype == np.float32
    assert (found.ids, found.texts, found.checkpoint, found.measure) == (
        made.ids,
        made.texts,
        made.checkpoint,
        made.measure,
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"vectors": VECTORS[0]}, r"vectors \[4\] of float32, and 3 ids"),
        ({"vectors": VECTORS[:2]}, r"vectors \[2, 4\] of float32, and 3 ids"),
        ({"vectors": np.array(["x"] * 3)}, "vectors .* of <U1"),
        ({"vectors": np.full((3, 4), 1e300)}, "a vector holds NaN or infinity"),
        ({"vectors": np.full((3, 4), np.nan)}, "a vector holds NaN or infinity"),
        ({"texts": np.array(["one", "two"])}, "vectors .*, and 3 ids"),
        ({"ids": np.arange(3)}, "vectors .*, and 3 ids"),
        ({"measure": np.array(["cosine"])}, "vectors .*, and 3 ids"),
        ({"ids": np.array([{}] * 3)}, "Object arrays cannot be loaded"),
        ({"measure": None}, "no array measure, it holds checkpoint, ids, texts, vectors"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changed, expected):
    arrays = {name: array for name, array in {**ARRAYS, **changed}.items() if array is not None}
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(UserError, match=expected) as refused:
        read_embeddings(tmp_path / "e.npz")
    assert "\n" not in str(refused.value) and str(refused.value).endswith("write them again")
