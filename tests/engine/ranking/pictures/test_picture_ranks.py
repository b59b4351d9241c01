"""Ranks and precisions of image retrieval against plain loops, whatever the blocks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.ranking import coarse, screen
from engine.ranking.pictures.metrics import summarize_images
from engine.ranking.pictures.ranks import ImageRanks, image_ranks
from engine.runtime import flush_subnormals
from tests.other_processors import quickest_are, without_bfloat16, without_mkl


def looped(
    query, query_labels, gallery, gallery_labels, own: bool, tie_rule: str, files: tuple | None = None
) -> list[tuple]:
    """Return query, rank, average precision at R and R-precision of the queries with a relevant item."""
    if tie_rule == "average":
        against, favour = (
            looped(query, query_labels, gallery, gallery_labels, own, rule, files)
            for rule in ("against", "favour")
        )
        return [tuple(np.mean(pair, axis=0)) for pair in zip(against, favour, strict=True)]
    found = []
    for number, (vector, label) in enumerate(zip(query, query_labels, strict=True)):
        items = [
            (-float(vector @ other), (other_label == label) == (tie_rule == "against"), other_label == label)
            for place, (other, other_label) in enumerate(zip(gallery, gallery_labels, strict=True))
            if not (own and place == number) and not (files and files[0][number] == files[1][place])
        ]
        hits = [relevant for _, _, relevant in sorted(items)]
        count = sum(hits)
        if count:
            precisions = [sum(hits[: place + 1]) / (place + 1) for place in range(count) if hits[place]]
            found.append((number, hits.index(True), sum(precisions) / count, sum(hits[:count]) / count))
    return found


def check(found: ImageRanks, expected: list[tuple]) -> None:
    queries, ranks, average, share = map(np.array, zip(*expected, strict=True))
    np.testing.assert_array_equal(found.queries, queries)
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_allclose(found.average_precision, average, rtol=1e-12)
    np.testing.assert_allclose(found.r_precision, share, rtol=1e-12)


@pytest.fixture
def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Return 90 vectors of small integers, whose products are exact and often tie, and labels with gaps."""
    random = np.random.default_rng(0)
    labels = random.choice([2, 3, 5, 8, 900, 1000], 90, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    labels[7] = 77  # a class of one
    vectors = random.integers(-2, 3, [90, 4]).astype(np.float32)
    return vectors, labels


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("block_size", [7, 64, 1000])
def test_queries_among_themselves(embeddings, block_size: int, tie_rule: str) -> None:
    vectors, labels = embeddings
    found = image_ranks(vectors, labels, tie_rule=tie_rule, block_size=block_size)
    check(found, looped(vectors, labels, vectors, labels, True, tie_rule))
    assert 7 not in found.queries


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("block_size", [7, 1000])
def test_queries_and_a_gallery(embeddings, block_size: int, tie_rule: str) -> None:
    vectors, labels = embeddings
    found = image_ranks(vectors[:30], labels[:30], vectors[30:], labels[30:], tie_rule, block_size)
    check(found, looped(vectors[:30], labels[:30], vectors[30:], labels[30:], False, tie_rule))


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("block_size", [7, 1000])
@pytest.mark.parametrize("kept", [40, 1 << 24])
def test_a_query_does_not_find_itself_in_a_gallery(
    embeddings, monkeypatch, block_size: int, tie_rule: str, kept: int
) -> None:
    monkeypatch.setattr("engine.ranking.pictures.ranks._KEPT_SCORES", kept)
    vectors, labels = embeddings
    files = np.arange(30), np.arange(90)
    files[1][40:60] = 5 + np.arange(20) // 2  # two copies each, most of them in other classes
    files[1][70] = 0
    arguments = vectors[:30], labels[:30], vectors, labels
    found = image_ranks(*arguments, tie_rule, block_size, files=files)
    check(found, looped(*arguments, False, tie_rule, files))


def test_a_gallery_that_is_the_queries_ranks_as_the_queries_among_themselves(embeddings) -> None:
    vectors, labels = embeddings
    numbers = np.arange(len(labels))
    found = image_ranks(vectors, labels, vectors, labels, block_size=16, files=(numbers, numbers))
    check(found, looped(vectors, labels, vectors, labels, True, "against"))


def test_copies_do_not_find_each_other(embeddings) -> None:
    vectors, labels = embeddings
    numbers = np.arange(len(labels)) // 2
    found = image_ranks(vectors, labels, block_size=16, files=(numbers, numbers))
    check(found, looped(vectors, labels, vectors, labels, True, "against", (numbers, numbers)))


@pytest.mark.parametrize("kept", [1, 100, 700])
def test_few_queries_at_a_time_where_memory_is_short(embeddings, monkeypatch, kept: int) -> None:
    vectors, labels = embeddings
    monkeypatch.setattr("engine.ranking.pictures.ranks._KEPT_SCORES", kept)
    done = []
    found = image_ranks(vectors, labels, block_size=16, progress=lambda *numbers: done.append(numbers))
    assert len(done) > 2
    assert done[-1] == (len(found.queries), len(found.queries))
    assert sorted(done) == done
    check(found, looped(vectors, labels, vectors, labels, True, "against"))


@pytest.mark.parametrize("classes", [2, 60], ids=["all tiles hold a class", "few do"])
def test_progress_is_told_on_the_way(classes: int) -> None:
    done = []
    vectors, labels = np.random.default_rng(7).standard_normal([120, 5]), np.arange(120) % classes
    image_ranks(vectors, labels, block_size=20, progress=lambda *numbers: done.append(numbers))
    assert len({number for number, _ in done}) >= 6
    assert sorted(done) == done and done[-1] == (120, 120)


def test_real_numbers_of_many_classes() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 40, 200)
    vectors = random.standard_normal([40, 8])[labels] + random.standard_normal([200, 8])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = image_ranks(vectors, labels, block_size=32)
    check(found, looped(vectors.astype(float), labels, vectors.astype(float), labels, True, "against"))


WAYS_TO_SCREEN = ["as here", "bfloat16", "digits", "int16", "float32", "without MKL", "without oneDNN"]


def screen_in(monkeypatch, way: str) -> None:
    """Let narrow embeddings be screened, by products of one kind."""
    monkeypatch.setattr("engine.ranking.coarse._NARROWEST", 16)
    if way == "without MKL":
        without_mkl(monkeypatch)
    elif way == "without oneDNN":
        without_bfloat16(monkeypatch)
    elif way != "as here":
        quickest_are(monkeypatch, way)


def rounded_once(vectors: np.ndarray) -> list["Rounded"]:
    return [Rounded(vector) for vector in vectors.astype(np.longdouble)]


class Rounded:
    """A vector whose products are rounded to float32 once, from those of a longer type."""

    def __init__(self, vector: np.ndarray) -> None:
        self.vector = vector

    def __matmul__(self, other: "Rounded") -> np.float32:
        return np.float32((self.vector * other.vector).sum())


@pytest.mark.parametrize("way", WAYS_TO_SCREEN)
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0], ids=["classes apart", "classes mixed", "noise"])
@pytest.mark.parametrize("searched", ["each other", "gallery", "gallery with copies"])
def test_ranks_are_those_of_exact_scores_whatever_screens(
    monkeypatch, spread: float, searched: str, way: str
) -> None:
    screen_in(monkeypatch, way)
    random = np.random.default_rng(3)
    scale = np.arange(1, 65) ** -1.0
    labels = random.permutation(np.arange(240) % 40)
    vectors = random.standard_normal([40, 64])[labels] * scale
    vectors += spread * random.standard_normal([240, 64]) * scale + 0.3
    vectors[11] = vectors[22]  # and of different classes
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    own, files = searched == "each other", None
    if searched == "gallery with copies":  # ten queries lie in the gallery, most of them in another class
        vectors[150:160] = vectors[:10]
        files = np.arange(100), np.concatenate([np.arange(1000, 1050), np.arange(10), np.arange(2000, 2080)])
    queries = slice(None) if own else slice(0, 100)
    gallery = () if own else (vectors[100:], labels[100:])
    found = image_ranks(
        vectors[queries], labels[queries], *gallery, tie_rule="average", block_size=24, files=files
    )
    exact = rounded_once(vectors)
    items = (exact, labels) if own else (exact[100:], labels[100:])
    check(found, looped(exact[queries], labels[queries], *items, own, "average", files))


@pytest.mark.parametrize("way", WAYS_TO_SCREEN)
def test_scores_that_rounding_alone_tells_apart_are_told_apart(monkeypatch, way: str) -> None:
    screen_in(monkeypatch, way)
    random = np.random.default_rng(9)
    vectors = random.standard_normal(70) + 1e-7 * random.standard_normal([120, 70])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = np.arange(120) % 11
    found = image_ranks(vectors, labels, tie_rule="average", block_size=32)
    exact = rounded_once(vectors)
    check(found, looped(exact, labels, exact, labels, True, "average"))


def note_products(monkeypatch) -> list[str]:
    """Return a list that receives the kinds of all products of tiles from now on."""
    noted = []
    for kind in (coarse.SingleProducts, coarse.Int16Products):
        multiply = kind.multiply

        def note(self, *operands, name=kind.__name__, multiply=multiply):
            noted.append(name)
            return multiply(self, *operands)

        monkeypatch.setattr(kind, "multiply", note)
    exact = screen.rounded_products
    monkeypatch.setattr(screen, "rounded_products", lambda *sides: (noted.append("exact"), exact(*sides))[1])
    return noted


def test_a_tile_is_multiplied_once_for_the_queries_on_both_its_sides(monkeypatch) -> None:
    screen_in(monkeypatch, "int16")
    noted = note_products(monkeypatch)
    random = np.random.default_rng(4)
    labels = random.permutation(np.arange(600) // 6)
    vectors = np.concatenate([random.standard_normal([100, 8])[labels], np.zeros([600, 56])], axis=1)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[:, 60] = random.normal(0, 1e-3, 600)
    found = image_ranks(vectors, labels, block_size=24)
    assert not found.ranks.any()
    assert found.average_precision.min() == 1
    assert noted == ["Int16Products"] * (25 * 26 // 2)


@pytest.mark.parametrize("each", [2, 7, 40, 300])
def test_relevant_scores_are_made_piece_by_piece(monkeypatch, each: int) -> None:
    for name, value in (("_QUERIES", 5), ("_ITEMS", 9)):
        monkeypatch.setattr(f"engine.ranking.pictures.ranks.{name}", value)
    random = np.random.default_rng(6)
    labels = random.permutation(np.arange(300) // each)
    vectors = random.integers(-3, 4, [300, 9]).astype(np.float32)
    check(
        image_ranks(vectors, labels, block_size=24), looped(vectors, labels, vectors, labels, True, "against")
    )


def test_ranks_beyond_the_deepest_are_beyond_it(monkeypatch) -> None:
    monkeypatch.setattr("engine.ranking.pictures.counter.DEEPEST", 20)
    random = np.random.default_rng(5)
    vectors, labels = random.standard_normal([300, 6]).astype(np.float32), np.arange(300) // 3
    exact = np.array([rank for _, rank, *_ in looped(vectors, labels, vectors, labels, True, "against")])
    found = image_ranks(vectors, labels, block_size=16).ranks
    np.testing.assert_array_equal(np.minimum(found, 20), np.minimum(exact, 20))
    assert (found < exact).any()


def test_embeddings_that_are_all_equal_find_nothing() -> None:
    labels = np.repeat([1, 2, 3], 50)
    found = image_ranks(np.ones([150, 5], np.float32) / np.float32(5**0.5), labels, block_size=16)
    assert set(found.ranks) == {100}
    assert not found.average_precision.any()


@pytest.mark.parametrize("value", [0, 1], ids=["all are zeros", "relevant ones are orthogonal"])
def test_scores_of_zero_tie_as_the_runtime_rounds(value: int) -> None:
    vectors, labels = value * np.eye(30, dtype=np.float32), np.arange(30) % 10
    with ThreadPoolExecutor(1, initializer=flush_subnormals) as pool:  # bars of zeros are subnormal
        found = pool.submit(image_ranks, vectors, labels, block_size=8).result()
    check(found, looped(vectors, labels, vectors, labels, True, "against"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_same_picture_in_two_classes_ties_wherever_it_lies(dtype: type) -> None:
    random = np.random.default_rng(2)
    vectors = random.standard_normal([400, 33]).astype(dtype)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[200:] = vectors[:200]
    labels = np.arange(400) // 2
    vectors[1::2] = vectors[::2]  # the nearest is the own partner, and as near are two of another class
    found = image_ranks(vectors, labels, block_size=48)
    assert set(found.ranks) == {2}
    assert set(image_ranks(vectors, labels, tie_rule="favour", block_size=48).ranks) == {0}


def test_mistakes_are_named() -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="query: expected a label an embedding, got 3 for 4"):
        image_ranks(vectors, np.arange(3))
    with pytest.raises(ValueError, match="expected a query with a relevant item in the gallery, got none"):
        image_ranks(vectors, np.arange(4))
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite in query embedding 2"):
        image_ranks(vectors, np.zeros(4, int))


def test_summary_in_percent() -> None:
    ranks = np.array([0, 9, 10, 99, 999, 1000])
    found = summarize_images(ranks, np.array([1, 0, 0.5, 0, 0, 0]), np.array([1, 0, 0.5, 0.3, 0, 0]))
    assert found == pytest.approx(
        {"r1": 100 / 6, "r10": 200 / 6, "r100": 400 / 6, "r1000": 500 / 6, "map_at_r": 25, "r_precision": 30}
    )


@pytest.mark.parametrize("processes", [2, 4, 30])
@pytest.mark.parametrize("own", [True, False], ids=["each other", "gallery"])
@pytest.mark.parametrize("kept", [1 << 20, 700], ids=["at once", "few at a time"])
def test_parts_have_the_ranks_of_the_whole_to_the_last_digit(monkeypatch, processes, own, kept) -> None:
    screen_in(monkeypatch, "as here")
    monkeypatch.setattr("engine.ranking.pictures.ranks._KEPT_SCORES", kept)
    random = np.random.default_rng(3)
    labels = random.permutation(np.arange(500) % 60)
    vectors = random.standard_normal([60, 64])[labels] + 2 * random.standard_normal([500, 64]) + 0.3
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[[11, 80]], vectors[[30, 31]] = vectors[22], 0
    vectors[100:200] = vectors[0] + 1e-7 * random.standard_normal([100, 64])  # that rounding puts in order
    arguments = (vectors, labels) if own else (vectors[:200], labels[:200], vectors[200:], labels[200:])
    whole = image_ranks(*arguments, tie_rule="average", block_size=24)
    parts = [
        image_ranks(*arguments, tie_rule="average", block_size=24, part=(number, processes))
        for number in range(processes)
    ]
    order = np.argsort(np.concatenate([part.queries for part in parts]))
    for name in ("queries", "ranks", "average_precision", "r_precision"):
        together = np.concatenate([getattr(part, name) for part in parts])[order]
        np.testing.assert_array_equal(together, getattr(whole, name), err_msg=name)
