"""Bounds on scores: nothing that matters is missed, and little else is multiplied."""

import numpy as np
import pytest

from engine.ranking.pictures.bounds import Bounds
from engine.ranking.tiles import TileSide, VectorBlock
from models.kernels.mkl import library, multiply_integers_on_one_thread
from tests.closeness import assert_close

pytestmark = pytest.mark.skipif(library() is None, reason="whole numbers are multiplied by MKL")


def block(vectors: np.ndarray) -> VectorBlock:
    nothing = np.zeros(len(vectors), int)
    items = TileSide(np.arange(len(vectors)), None, nothing, nothing)
    return VectorBlock(vectors, slice(None), [items], nothing, nothing)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


RANDOM = np.random.default_rng(0)
VECTORS = {
    "unit": unit(RANDOM.standard_normal((300, 500))),
    "one axis": unit(RANDOM.standard_normal((300, 500)) + 300 * np.eye(500)[0]),
    "of all lengths": (RANDOM.standard_normal((300, 500)) * 10.0 ** RANDOM.uniform(-3, 3, (300, 1))).astype(
        np.float32
    ),
    "positive": unit(np.abs(RANDOM.standard_normal((300, 500)))),
    "zeros": np.zeros((300, 500), np.float32),
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("side", [0, 1], ids=["rows ask", "columns ask"])
def test_every_pair_above_a_bar_is_found_with_its_score(monkeypatch, kind: str, side: int) -> None:
    monkeypatch.setattr("engine.ranking.pictures.bounds._FEW", 1)
    vectors = VECTORS[kind]
    queries, items = block(vectors[:100]), block(vectors[100:])
    exact = vectors[:100].astype(float) @ vectors[100:].T.astype(float)
    bar = np.quantile(exact, 0.999).astype(np.float32)
    bounds = Bounds([queries], [items])
    bars = lambda places: np.full(len(places), bar)  # noqa: E731
    row, column, scores = bounds.pairs((0, 0), side, bounds.products((0, 0)), bars)
    assert (np.diff(row) >= 0).all()
    scale = np.abs(vectors[:100]).astype(float) @ np.abs(vectors[100:]).T.astype(float)
    exact, scale = (exact.T, scale.T) if side else (exact, scale)
    assert_close(scores, exact[row, column], vectors.shape[1], scale[row, column])
    found = np.zeros(exact.shape, bool)
    found[row, column] = True
    assert found[exact > bar].all()
    if kind in ("unit", "positive"):
        assert found.sum() < 2.2 * (exact > bar).sum()


def test_a_bar_out_of_reach_spares_all_and_a_low_one_nothing() -> None:
    queries, items = block(VECTORS["unit"][:100]), block(VECTORS["unit"][100:])
    bounds = Bounds([queries], [items])
    products = bounds.products((0, 0))
    assert not len(bounds.pairs((0, 0), 0, products, lambda places: np.full(len(places), np.inf))[0])
    promising = []
    for _ in range(34):
        promising.append(bounds.are_promising(0))
        assert bounds.pairs((0, 0), 0, products, lambda places: np.full(len(places), -np.inf)) is None
    assert promising == [True] * 4 + [False] * 28 + [True] * 2, "after a pause they are tried again"
    bounds.pairs((0, 0), 0, products, lambda places: np.full(len(places), np.inf))
    assert bounds.are_promising(0)


def test_bounds_of_zeros_are_numbers() -> None:
    queries, items = block(VECTORS["zeros"][:100]), block(VECTORS["zeros"][100:])
    bounds = Bounds([queries], [items])
    with np.errstate(divide="raise", invalid="raise"):
        products = bounds.products((0, 0))
        row, _, _ = bounds.pairs((0, 0), 0, products, lambda places: np.ones(len(places)))
        assert not len(row)
        assert bounds.pairs((0, 0), 0, products, lambda places: np.zeros(len(places))) is None


def test_products_of_whole_numbers_are_exact() -> None:
    a, b = RANDOM.integers(-1000, 1001, (70, 900)), RANDOM.integers(-1000, 1001, (50, 900))
    found = multiply_integers_on_one_thread(a.astype(np.int16), b.astype(np.int16).T)
    np.testing.assert_array_equal(found, a @ b.T)
    largest = np.full((3, 2), 32767, np.int16)
    assert (multiply_integers_on_one_thread(largest, -largest.T[:, :1]) == -2 * 32767**2).all()
