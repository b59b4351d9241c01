"""Image retrieval against the stored numbers of other implementations."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.ranking.metrics import recall_at_k
from engine.ranking.pictures.ranks import image_ranks


@pytest.fixture(scope="module")
def stored(shared: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    folder = shared / "fixtures" / "metric"
    arrays = np.load(folder / "recall.npz")
    vectors = arrays["embeddings"]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, arrays["labels"], json.loads((folder / "recall.json").read_text())


@pytest.mark.parametrize(("protocol", "queries"), [("self_retrieval", None), ("query200_vs_ref400", 200)])
def test_recalls_and_precisions(
    stored: tuple[np.ndarray, np.ndarray, dict], protocol: str, queries: int | None
) -> None:
    vectors, labels, numbers = stored
    gallery = (vectors[queries:], labels[queries:]) if queries else ()
    found = image_ranks(vectors[:queries], labels[:queries], *gallery, block_size=256)
    expected = numbers[protocol]
    for k in (1, 2, 4, 8, 10, 100):
        assert recall_at_k(found.ranks, k) / 100 == pytest.approx(expected[f"recall_at_{k}"], abs=1e-9)
    assert found.average_precision.mean() == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-9)
    assert found.r_precision.mean() == pytest.approx(expected["r_precision"], abs=1e-9)


def test_queries_without_anything_relevant_may_be_counted_as_misses(stored) -> None:
    vectors, labels, numbers = stored
    found = image_ranks(vectors, labels)
    for k, expected in numbers["bruteforce"].items():
        hits = np.count_nonzero(found.ranks < int(k))
        assert hits / len(found.queries) == pytest.approx(expected["lone_dropped"])
        assert hits / len(labels) == pytest.approx(expected["lone_counted_as_miss"])
