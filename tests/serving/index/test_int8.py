"""The engine of 8 bits a number finds what all float32 scores find, whatever the vectors are."""

import json

import numpy as np
import onnx
import pytest

from config.errors import UserError
from serving.index.engines import codes as codes_module
from serving.index.engines import int8, integers
from serving.index.engines.codes import Codes, build_codes, codes_of, load_codes
from serving.index.engines.exact import Scan, exact_scores
from serving.index.engines.integers import LARGEST, ZERO
from serving.index.engines.saved import Saved, file_check
from serving.index.index import Index
from serving.index.vectors import row_checks
from tests.vector_makers import items_named, unit_vectors

WIDTH = 24


def _duplicates() -> np.ndarray:
    return np.repeat(unit_vectors(40), 30, axis=0)[np.random.default_rng(0).permutation(1200)]


def _near_ties() -> np.ndarray:
    """Return rows that differ in the last bits, so that their codes are the same."""
    rows = np.tile(unit_vectors(1), (1200, 1))
    rows.view(np.int32)[:] += np.random.default_rng(0).integers(-2, 3, rows.shape, dtype=np.int32)
    return rows


def _lengths() -> np.ndarray:
    """Return rows of lengths from 1e-30 to 1e15, and some of zeros."""
    vectors = unit_vectors(1200) * (10.0 ** np.random.default_rng(0).uniform(-30, 15, (1200, 1)))
    vectors[::50] = 0
    return vectors.astype(np.float32)


def _columns() -> np.ndarray:
    """Return rows whose columns are constant, far apart in width, or of one number that differs."""
    vectors = unit_vectors(1200) * np.geomspace(1e-6, 1e3, WIDTH)
    vectors[:, 3], vectors[:, 4] = 0.0, 7.0
    vectors[600, 5] = 1e4
    return vectors.astype(np.float32)


MAKERS = {
    "random": lambda: unit_vectors(1200),
    "far from zero": lambda: unit_vectors(1200) + np.float32(3),
    "sparse": lambda: unit_vectors(1200) * (np.random.default_rng(0).random((1200, WIDTH)) < 0.1),
    "duplicates": _duplicates,
    "near ties": _near_ties,
    "lengths": _lengths,
    "columns": _columns,
    "zeros": lambda: np.zeros((1200, WIDTH), np.float32),
    "one": lambda: unit_vectors(1),
}


def engine_of(vectors: np.ndarray, threads: int = 2) -> int8.Int8:
    return int8.Int8(codes_of(vectors), threads)


def found_by(engine: int8.Int8, vectors: np.ndarray, queries: np.ndarray, k: int, allowed=None) -> list:
    scan = Scan(vectors, row_checks(vectors), None)
    return engine.search(lambda rows: vectors[rows], queries, k, allowed, scan.everything)


def numbers_of(codes: Codes) -> np.ndarray:
    """Return the whole numbers [N,D] of codes, as float64."""
    tiles = [codes.columns(start).T for start in range(0, len(codes.steps), codes.tile)]
    return np.concatenate(tiles).astype(np.float64)


def found_by_hand(vectors: np.ndarray, query: np.ndarray, k: int, allowed=None) -> list[tuple[float, int]]:
    """Return scores and rows of the k best by a plain loop; equal scores in the order of rows."""
    rows = range(len(vectors)) if allowed is None else np.flatnonzero(allowed).tolist()
    scored = [(float(exact_scores(vectors[row : row + 1], query)[0]), row) for row in rows]
    return sorted(scored, key=lambda each: (-each[0], each[1]))[:k]


@pytest.fixture(params=["at once", "in small blocks"])
def blocks(request, monkeypatch):
    """Let 1,200 rows be read in one block, or in many by two threads, as a hundred thousand are."""
    if request.param == "in small blocks":
        monkeypatch.setattr(codes_module, "TILE", 64)
        monkeypatch.setattr(int8, "_BLOCK_PRODUCTS", 128)


@pytest.mark.parametrize("most", [1 << 30, 20])  # rows that are taken one by one
@pytest.mark.parametrize("maker", MAKERS)
def test_it_finds_what_a_plain_loop_finds_with_the_same_scores(maker, most, blocks, monkeypatch):
    vectors = np.ascontiguousarray(MAKERS[maker](), np.float32)
    near = vectors[:: max(1, len(vectors) // 3)] + 0.1 * unit_vectors(1, seed=1)
    queries = np.concatenate([unit_vectors(3, seed=2), near]).astype(np.float32)
    queries /= np.maximum(np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True), 1e-12)
    queries = queries.astype(np.float32)
    engine = engine_of(vectors)
    monkeypatch.setattr(engine, "_most_taken", most)
    for allowed in (None, np.random.default_rng(1).random(len(vectors)) < 0.3):
        for query in queries:
            expected = found_by_hand(vectors, query, 7, allowed)
            for together in (query[None], queries):
                found = found_by(engine, vectors, together, 7, allowed)
                place = 0 if len(together) == 1 else int(np.flatnonzero((queries == query).all(axis=1))[0])
                scores, rows = found[place]
                assert list(zip(scores.tolist(), rows.tolist(), strict=True)) == expected


@pytest.mark.parametrize("maker", MAKERS)
def test_no_score_is_further_off_than_the_codes_say(maker):
    vectors = np.ascontiguousarray(MAKERS[maker](), np.float32)
    codes = codes_of(vectors)
    steps = codes.steps[:, None].astype(np.float64) * codes.widths
    decoded = codes.centre + steps * numbers_of(codes)
    worst = vectors - decoded  # the query for which a code is off most
    queries = np.concatenate([unit_vectors(20, seed=3), worst[:20]]).astype(np.float64)
    for query in queries:
        length = np.linalg.norm(query)
        off = np.abs(exact_scores(vectors, query.astype(np.float32)) - decoded @ query)
        assert (off <= codes.errors.astype(np.float64) * length * (1 + 1e-6)).all()


@pytest.mark.parametrize("digits", [1, 2])
def test_what_rounding_a_query_loses_is_counted_too(digits):
    """Vectors of whole numbers lose nothing themselves."""
    numbers = np.random.default_rng(0).integers(-127, 128, (1200, WIDTH)).astype(np.int8)
    vectors = numbers.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    errors = (WIDTH + 32) * 2.0**-24 * lengths
    ones, sums = np.ones(1200, np.float32), vectors.sum(axis=1).astype(np.int32)
    of_rows = (ones, errors, sums, lengths * np.float32(1 + 1e-6))
    codes = Codes(np.zeros(WIDTH, np.float32), ones[:WIDTH], *of_rows, numbers.T.ravel(), 1200)
    engine, queries = int8.Int8(codes, 1), unit_vectors(50, seed=4)
    for together in [queries] if digits > 1 else queries[:, None]:
        asked = int8._asked(together, codes, digits)
        shortlist = engine._read(0, 1200, asked, 1200, None)
        for query, base, (highest, rows) in zip(together, asked.bases, shortlist.of_each(), strict=True):
            assert sorted(rows) == list(range(1200))
            scores = exact_scores(vectors[rows], query)
            assert (highest + base >= scores).all()
            assert (highest + base - 2 * (lengths * asked.step * asked.off + errors)[rows] <= scores).all()


def test_a_query_alone_has_a_second_digit_in_its_few_largest_numbers():
    vectors, query = unit_vectors(1200, 64), unit_vectors(1, 64, seed=1)
    query[0, [5, 40]] = 3, -2
    query /= np.linalg.norm(query)
    engine = engine_of(vectors)
    asked = int8._asked(query, engine._codes, 1)
    assert set(asked.large) >= {5, 40} and len(asked.large) <= 4
    whole = asked.digits[0].astype(np.int64) - ZERO
    whole[asked.large] += (2 * LARGEST + 1) * (asked.upper[0].astype(np.int64) - ZERO)
    wide = query[0] * engine._codes.widths
    assert np.abs(whole * np.float64(asked.step) - wide).max() <= asked.step * 0.5001
    ((scores, rows),) = found_by(engine, vectors, query, 9)
    assert list(zip(scores.tolist(), rows.tolist(), strict=True)) == found_by_hand(vectors, query[0], 9)


@pytest.mark.parametrize("maker", MAKERS)
def test_sums_and_lengths_are_those_of_the_numbers(maker):
    codes = codes_of(np.ascontiguousarray(MAKERS[maker](), np.float32))
    numbers = numbers_of(codes)
    assert (codes.sums == numbers.sum(axis=1)).all() and np.abs(numbers).max() <= 127
    lengths = np.linalg.norm(numbers, axis=1)
    assert (codes.lengths >= lengths).all() and (codes.lengths <= lengths * (1 + 1e-5)).all()


def test_a_query_alone_that_leaves_too_many_rows_is_asked_more_finely(monkeypatch):
    vectors, query = unit_vectors(1200), unit_vectors(1, seed=2)
    engine, asked = engine_of(vectors), []
    monkeypatch.setattr(engine, "_most_taken", 20)
    shortlists = engine._shortlists

    def watched(queries, k, allowed, digits):
        asked.append(digits)
        return shortlists(queries, k, allowed, digits)

    monkeypatch.setattr(engine, "_shortlists", watched)
    ((scores, rows),) = found_by(engine, vectors, query, 15)
    assert list(zip(scores.tolist(), rows.tolist(), strict=True)) == found_by_hand(vectors, query[0], 15)
    assert asked == [1, 2]


@pytest.mark.parametrize("count", [1, 150])
def test_codes_that_an_earlier_version_wrote_row_after_row_are_read(tmp_path, count, monkeypatch):
    vectors = unit_vectors(count)
    monkeypatch.setattr(codes_module, "TILE", 64)
    new = load_codes(tmp_path, build_codes(tmp_path, vectors), WIDTH)
    arrays = (new.centre, new.widths, new.steps, new.errors)
    rows = (numbers_of(new) + 128).astype(np.uint8)
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "codes.i8"
    path.write_bytes(rows.tobytes() + b"".join(each.tobytes() for each in arrays))
    old = load_codes(path.parent, Saved("int8", count, file_check(path), {}), WIDTH)
    for name, value in vars(new).items():
        np.testing.assert_array_equal(getattr(old, name), value, name)


@pytest.mark.parametrize("tile", [0, 2, 4096, True, 2048.5, "2048", [2048]])
def test_a_card_that_says_another_order_of_codes_is_refused(make_index, tile):
    folder = make_index(unit_vectors(10), "int8")
    card = json.loads((folder / "card.json").read_text())
    card["parameters"]["tile"] = tile
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="codes.i8: damaged"):
        Index(folder)


def test_random_vectors_leave_few_rows_to_score():
    vectors, taken = unit_vectors(20_000, 256), []
    engine = engine_of(vectors)

    def take(rows: np.ndarray) -> np.ndarray:
        taken.append(len(rows))
        return vectors[rows]

    engine.search(take, unit_vectors(10, 256, seed=1), 10, None, None)
    assert sum(taken) < 10 * 100


def test_it_uses_as_many_threads_as_it_may_and_finds_the_same():
    vectors, queries = unit_vectors(9000), unit_vectors(3, seed=1)
    one, three = (found_by(engine_of(vectors, threads), vectors, queries, 9) for threads in (1, 3))
    for (scores, rows), (others, other_rows) in zip(one, three, strict=True):
        assert scores.tolist() == others.tolist() and rows.tolist() == other_rows.tolist()


def test_who_writes_and_does_not_search_reads_no_codes(make_index):
    folder = make_index(unit_vectors(10), "int8")
    (folder / "0001" / "codes.i8").unlink()
    with Index(folder, writable=True, resident=False) as index:
        index.delete(["p3"])
    for writable in (True, False):
        with pytest.raises(UserError, match="codes.i8: damaged"):
            Index(folder, writable, resident=writable)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused_before(make_index, number):
    vectors = unit_vectors(10)
    with Index(make_index(vectors, "int8"), writable=True) as index:
        vectors[3, 2] = number
        with pytest.raises(UserError, match="row 4 holds NaN or infinity"):
            index.add(items_named(10, 10), vectors)


def test_numbers_that_are_too_large_for_codes_are_told(tmp_path):
    vectors = unit_vectors(10)
    vectors[7] *= np.float32(3e38)
    assert codes_of(vectors) is None
    with pytest.raises(UserError, match="too large for codes: build with --engine scan"):
        build_codes(tmp_path, vectors)


def test_rows_that_come_later_are_searched_by_codes_too(make_index):
    vectors, query = unit_vectors(9000), unit_vectors(1, seed=1)
    with Index(make_index(vectors[:1000], "int8", items_named(1000)), writable=True) as index:
        index.add(items_named(8000, 1000), vectors[1000:])
        hits = index.search(query, 20)[0]
    assert [(hit.score, int(hit.id[1:])) for hit in hits] == found_by_hand(vectors, query[0], 20)


def test_products_are_exact_at_the_ends_of_what_their_numbers_may_be():
    """Where processors add two products up in 16 bits, larger numbers would be cut off."""
    random = np.random.default_rng(0)
    rows = random.choice(np.uint8([ZERO - LARGEST, ZERO - 1, ZERO, ZERO + LARGEST]), (5, 1000))
    columns = random.choice(np.int8([-127, -126, -1, 0, 126, 127]), (1000, 40))
    rows[0], columns[:, 0], columns[:, 1] = ZERO + LARGEST, 127, -127
    expected = rows.astype(np.int64) @ columns.astype(np.int64)
    assert np.array_equal(integers.multiply(rows, columns), expected)
    for place in range(len(rows)):
        assert np.array_equal(integers.multiply(rows[place][None], columns), expected[place][None])


def test_the_graph_is_the_one_that_onnx_itself_would_write():
    graph = onnx.load_from_string(integers.graph())
    onnx.checker.check_model(graph, full_check=True)
    helper, kinds = onnx.helper, onnx.TensorProto
    inputs = [
        helper.make_tensor_value_info(name, kind, (None, None))
        for name, kind in (("rows", kinds.UINT8), ("columns", kinds.INT8))
    ]
    output = helper.make_tensor_value_info("products", kinds.INT32, (None, None))
    node = helper.make_node("MatMulInteger", ["rows", "columns"], ["products"])
    expected = helper.make_graph([node], "products", inputs, [output])
    assert graph.graph == expected
