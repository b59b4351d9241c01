"""A search finds what a full sort of all scores finds, in the evaluator's order, with every engine."""

import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from serving.index import finishing, view
from serving.index import vectors as vector_files
from serving.index.engines import exact, half, lists
from serving.index.engines.int8 import Int8
from serving.index.engines.measured import true_best
from serving.index.finishing import Options
from serving.index.index import Index
from serving.index.items import Item
from serving.index.vectors import forget, row_checks
from tests.closeness import assert_close
from tests.vector_makers import items_named, unit_vectors

EXACT = ["scan", "int8", "float16"]


def best_by_hand(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    """Return the rows of the k best by a plain loop; equal scores in the order of rows."""
    scores = [float(np.einsum("d,d->", row, query)) for row in vectors]
    return sorted(range(len(vectors)), key=lambda row: (-scores[row], row))[:k]


def names(rows) -> list[str]:
    return [f"p{row}" for row in rows]


@pytest.mark.parametrize("engine", EXACT)
def test_an_exact_search_finds_what_a_full_sort_finds(make_index, engine):
    vectors, queries = unit_vectors(300), unit_vectors(20, seed=1)
    with Index(make_index(vectors, engine)) as index:
        found = index.search(queries, 7)
    for query, hits in zip(queries, found, strict=True):
        assert [hit.id for hit in hits] == names(best_by_hand(vectors, query, 7))
        expected = [vectors[int(hit.id[1:])] @ query for hit in hits]
        assert_close(np.float32([hit.score for hit in hits]), expected, vectors.shape[1], scale=1)


def test_vectors_that_are_read_for_each_query_do_not_stay_in_memory(make_index, monkeypatch):
    vectors, queries, given = unit_vectors(3000), unit_vectors(4, seed=1), []
    folder = make_index(vectors, "scan")
    with Index(folder) as index:
        expected = index.search(queries, 9)
    monkeypatch.setattr(exact, "_KEPT_BYTES", 0)
    monkeypatch.setattr(exact, "forget", lambda rows: given.append(len(rows)) or forget(rows))
    with Index(folder) as index:
        assert index.search(queries, 9) == expected == index.search(queries, 9)
    assert sum(given) == 2 * 3000
    forget(vectors)  # memory that is no file's is left alone
    assert np.array_equal(vectors, unit_vectors(3000))


@pytest.mark.parametrize("engine", EXACT)
def test_equal_vectors_have_equal_scores_and_stand_in_the_order_of_items(make_index, engine):
    """Also where more are equal than an engine proposes at first, and where float16 makes more equal."""
    vectors = np.repeat(unit_vectors(3), 2000, axis=0)[np.random.default_rng(0).permutation(6000)]
    vectors[5::7] += 1e-6 * unit_vectors(1, seed=4)
    query = unit_vectors(1, seed=1)
    with Index(make_index(vectors, engine)) as index:
        hits = index.search(query, 30)[0]
    assert [hit.id for hit in hits] == names(best_by_hand(vectors, query[0], 30))


@pytest.mark.parametrize("engine", [*EXACT, "lists"])
def test_a_query_has_the_same_hits_alone_and_in_a_batch(make_index, engine):
    queries = unit_vectors(40, seed=2)
    with Index(make_index(unit_vectors(500), engine)) as index:
        assert index.search(queries, 5) == [index.search(query[None], 5)[0] for query in queries]


@pytest.mark.parametrize("allowed", [1.0, 0.5, 0.005])
def test_many_queries_are_multiplied_and_propose_what_a_scan_for_each_proposes(allowed, tmp_path):
    vectors, queries = unit_vectors(3000), unit_vectors(40, seed=1)
    chosen = None if allowed == 1 else np.random.default_rng(0).random(3000) < allowed
    engine = half.load_half(tmp_path, half.build_half(tmp_path, vectors), 24, 2)
    scores, rows = engine.propose(queries, 30, chosen)  # so many are multiplied
    for place, query in enumerate(queries):
        (alone,), (expected,) = engine.propose(query[None], 30, chosen)
        assert set(rows[place]) == set(expected)
        there = expected >= 0
        assert_close(scores[place][there], alone[there], vectors.shape[1], scale=1)
    everything = engine.propose(queries, 5000, chosen)[1]
    whole = range(3000) if chosen is None else np.flatnonzero(chosen).tolist()
    assert all(sorted(row[row >= 0]) == list(whole) for row in everything)


def test_float16_codes_are_decoded_exactly_whatever_the_number():
    bits = np.arange(-(2**15), 2**15).astype(np.int16)
    finite = bits[np.isfinite(bits.view(np.float16))].reshape(1, -1)
    decoded = half.decode_half(finite, np.empty(finite.shape, np.float32))
    assert decoded.tobytes() == finite.view(np.float16).astype(np.float32).tobytes()


def test_lists_lose_little_and_the_card_says_how_much(make_index):
    centres = unit_vectors(50, 32)
    vectors = centres[np.arange(5000) % 50] + 0.3 * unit_vectors(5000, 32, seed=3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Index(make_index(vectors, "lists")) as index:
        queries = vectors[::50] + 0.1 * unit_vectors(100, 32, seed=5)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        found = index.search(queries, 10)
        shares = [
            len({hit.id for hit in hits} & set(names(best))) / 10
            for hits, best in zip(found, true_best(vectors, queries, 10), strict=True)
        ]
        assert index.card.recall_at_10 >= 0.95 and np.mean(shares) >= 0.9
        assert index.card.recall_queries == "800 perturbed items"


@pytest.mark.parametrize("engine", EXACT)
def test_the_card_of_an_exact_engine_says_that_nothing_is_lost(make_index, engine):
    with Index(make_index(unit_vectors(300), engine)) as index:
        assert index.card.recall_at_10 == 1.0 and index.card.engine == engine


def test_a_small_collection_is_scanned(make_index):
    with Index(make_index(unit_vectors(10))) as index:
        assert index.card.engine == "scan" and len(index.search(unit_vectors(1), 99)[0]) == 10


@pytest.fixture(params=["FAISS's own", "as torch_utils leaves it"])
def faiss_search(request, monkeypatch):
    """Let FAISS's classes be as they come, and as an import of faiss.contrib.torch_utils leaves them."""
    faiss = pytest.importorskip("faiss")
    for kind in (faiss.IndexScalarQuantizer, faiss.IndexIVFScalarQuantizer, faiss.IndexIVF):
        if request.param == "as torch_utils leaves it" and not hasattr(kind, "search_numpy"):
            monkeypatch.setattr(kind, "search_numpy", kind.search, raising=False)
            monkeypatch.setattr(kind, "search", lambda self, x, k: pytest.fail("replaced"))


@pytest.mark.usefixtures("faiss_search")
@pytest.mark.parametrize("engine", [*EXACT, "lists"])
def test_a_filter_leaves_the_best_that_meet_it(make_index, engine, monkeypatch):
    monkeypatch.setattr(view, "_DIRECT_BYTES", 0)
    vectors, query = unit_vectors(600), unit_vectors(1, seed=1)
    with Index(make_index(vectors, engine)) as index:
        hits = index.search(query, 5, 'colour = "green" and number >= 100')[0]
    meets = [row for row in range(600) if row % 3 == 1 and row >= 100]
    expected = [f"p{meets[place]}" for place in best_by_hand(vectors[meets], query[0], 5)]
    found = [hit.id for hit in hits]
    assert found == expected if engine != "lists" else len(set(found) & set(expected)) >= 3


def test_a_filter_that_few_items_meet_is_exact_with_lists_too(make_index):
    vectors, query = unit_vectors(600), unit_vectors(1, seed=1)
    with Index(make_index(vectors, "lists")) as index:
        hits = index.search(query, 5, "number < 9")[0]
    assert [hit.id for hit in hits] == names(best_by_hand(vectors[:9], query[0], 5))


@pytest.mark.parametrize("rows_are_pictures", [True, False])
def test_order_similarity_is_searched_exactly(make_index, rows_are_pictures):
    vectors, queries = np.abs(unit_vectors(200)), np.abs(unit_vectors(5, seed=1))
    folder = make_index(vectors, measure="order", holds="pictures" if rows_are_pictures else "captions")
    with Index(folder) as index:
        found = index.search(queries, 6, of_pictures=not rows_are_pictures)
    for query, hits in zip(queries, found, strict=True):
        scores = []
        for row in vectors:
            text, picture = (query, row) if rows_are_pictures else (row, query)
            scores.append(
                -(sum(max(0.0, float(t - p)) ** 2 for t, p in zip(text, picture, strict=True)) ** 0.5)
            )
        assert [hit.id for hit in hits] == names(np.argsort(-np.array(scores), kind="stable")[:6])
        best = np.float32([hit.score for hit in hits])
        assert_close(best, np.sort(scores)[::-1][:6], 2 * vectors.shape[1], scale=1)


def test_order_similarity_says_that_it_has_exact_search_only(make_index):
    with pytest.raises(UserError, match="order similarity has exact search only"):
        make_index(np.abs(unit_vectors(20)), "lists", measure="order")


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (unit_vectors(1, 23), "numbers of shape .N,24., as the index holds, got float32 of shape .1, 23."),
        (2 * unit_vectors(1), "has the length 2, expected 1: normalise"),
        (np.full((1, 24), np.nan), "row 1 holds NaN or infinity"),
    ],
)
def test_a_query_that_cannot_be_compared_is_refused(make_index, queries, message):
    with Index(make_index(unit_vectors(10))) as index, pytest.raises(UserError, match=message):
        index.search(queries, 3)


def test_a_query_of_another_bundle_is_refused(make_index):
    with Index(make_index(unit_vectors(10))) as index:
        index.check_bundle("a" * 64)
        with pytest.raises(
            UserError, match="built with the bundle aaaaaaaaaaaa, and the query is of .* bbbb"
        ):
            index.check_bundle("b" * 64)


def test_threads_search_while_another_adds_and_deletes(make_index):
    vectors = unit_vectors(400)
    folder = make_index(vectors[:200], "float16", items_named(200))
    stop, problems = threading.Event(), []

    def search() -> None:
        with Index(folder) as reader:
            while not stop.is_set():
                hits = reader.search(vectors[:1], 3)[0]
                if hits[0].id != "p0" or len(hits) != 3:
                    problems.append(hits)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    with Index(folder, writable=True) as writer:
        for row in range(200, 300):
            writer.add(items_named(1, row), vectors[row : row + 1])
            writer.delete([f"p{row - 150}"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize(
    ("enough", "memory", "engine"),
    [
        ({"int8": 13.0, "float16": 9.0}, 1 << 20, "int8"),
        ({"int8": 21.0, "float16": 9.0}, 1 << 20, "float16"),
        ({"int8": 21.0, "float16": 21.0}, 1 << 20, "lists"),
        ({"int8": 21.0, "float16": 9.0}, 40_000, "lists"),  # so much as lists need, and not float16
    ],
)
def test_the_rule_that_chooses_an_engine(make_index, monkeypatch, enough, memory, engine):
    names = {Int8: "int8", half.HalfPrecision: "float16"}
    monkeypatch.setattr(finishing, "_SCANNED_BYTES", 0)
    monkeypatch.setattr(finishing, "_milliseconds", lambda engine, *_: enough[names[type(engine)]])
    with Index(make_index(unit_vectors(1000), options=Options(memory=memory))) as index:
        assert index.card.engine == engine


def test_what_no_engine_can_hold_is_refused_with_what_it_needs():
    with pytest.raises(UserError, match="need 0.105 GB even with 8 bits a number, and 0.1 GB are allowed"):
        lists.check_memory(100_000, 1024, 100_000_000)


def test_without_faiss_a_search_is_exact_and_lists_say_what_is_missing(make_index, monkeypatch):
    vectors = unit_vectors(100)
    half, lists = make_index(vectors, "float16"), make_index(vectors, "lists", name="lists")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with Index(make_index(vectors, "int8", name="int8")) as index:
        assert index.search(vectors[7:8], 1)[0][0].id == "p7"
    with Index(half, resident=False) as index:
        assert index.search(vectors[7:8], 1)[0][0].id == "p7"
    with pytest.raises(UserError, match="needs the package faiss-cpu: pip install -r requirements-index.txt"):
        Index(lists)


def scan_of(tmp_path: Path, vectors: np.ndarray) -> exact.Scan:
    return exact.Scan(vectors, row_checks(vectors), tmp_path)


@pytest.mark.parametrize("queries", [1, 5, 64])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_a_scan_in_parts_proposes_what_all_scores_say(
    tmp_path, monkeypatch, queries: int, some: bool
) -> None:
    monkeypatch.setattr(exact, "_MOST_SCORES", 1000)
    monkeypatch.setattr(vector_files, "BLOCK_BYTES", 4 * 6 * 50)
    random = np.random.default_rng(queries)
    vectors = random.integers(-3, 4, (730, 6)).astype(np.float32)  # with many equal scores
    asked = random.integers(-3, 4, (queries, 6)).astype(np.float32)
    allowed = random.random(len(vectors)) < 0.02 if some else None
    scores = asked @ vectors.T
    if some:
        scores[:, ~allowed] = -np.inf
    best, rows = scan_of(tmp_path, vectors).propose(asked, 30, allowed)
    np.testing.assert_array_equal(best, -np.sort(-scores, axis=1)[:, :30])
    assert ((rows == -1) == np.isneginf(best)).all()
    np.testing.assert_array_equal(
        np.take_along_axis(scores, np.maximum(rows, 0), 1)[rows >= 0], best[rows >= 0]
    )
    assert all(len(set(row[row >= 0])) == np.count_nonzero(row >= 0) for row in rows)


def test_a_scan_for_many_queries_holds_few_scores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exact, "_MOST_SCORES", 1 << 20)
    monkeypatch.setattr(vector_files, "BLOCK_BYTES", 1 << 18)
    vectors = np.random.default_rng(0).standard_normal((50_000, 8), dtype=np.float32)
    scan = scan_of(tmp_path, vectors)
    tracemalloc.start()
    scan.propose(vectors[:100], 10, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6, f"{peak / 1e6:.0f} MB: all scores take 20 MB, and their order twice that"


def test_an_unknown_id_is_told_with_the_ids_of_files_that_are_called_so(make_index):
    names = ["holidays/lake_1.jpg", "work/lake_1.jpg", "home/lake21.jpg", "desk.png"]
    with Index(make_index(unit_vectors(4), items=[Item(name) for name in names])) as index:
        for unknown, near in {
            "lake_1.jpg": "did you mean holidays/lake_1.jpg, work/lake_1.jpg?",
            "desk": "did you mean desk.png?",
            "lake": "name one that is there",
            "%": "name one that is there",
        }.items():
            with pytest.raises(UserError) as refused:
                index.vectors_of([unknown])
            assert str(refused.value).endswith(f"there is no item {unknown!r}: {near}")
