"""Coarse products leave ranks as they are: their bounds hold, and what they leave open is settled exactly."""

import numpy as np
import pytest

from datasets.relevance import Relevance
from engine.ranking import coarse, ranks, screen
from engine.ranking.coarse import kinds_of_products, margins
from engine.ranking.ranks import Question, rank_counters
from engine.ranking.rounded import rounded_products
from engine.ranking.screen import Screen, TileScores, TooManyOpenError
from engine.ranking.tiles import VectorBlock, cut_into_blocks
from tests.other_processors import products_of_each_kind, quickest_are, without_bfloat16, without_mkl

RANDOM = np.random.default_rng(0)
WIDTH = 200


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape)


VECTORS = {
    "unit": unit(normal(150, WIDTH)),
    "one axis": unit(normal(150, WIDTH) + 300 * np.eye(WIDTH)[0]),
    "of all lengths": normal(150, WIDTH) * 10.0 ** RANDOM.uniform(-8, 8, (150, 1)),
    "numbers of all sizes": normal(150, WIDTH) * 10.0 ** RANDOM.uniform(-6, 6, (150, WIDTH)),
    "positive": unit(np.abs(normal(150, WIDTH))),
    "a few numbers": unit(normal(150, WIDTH) * (RANDOM.random((150, WIDTH)) < 0.03) + 1e-3),
    "whole numbers": RANDOM.integers(-2, 3, (150, WIDTH)),
    "nearly alike": unit(normal(1, WIDTH)) + 1e-6 * normal(150, WIDTH),
    "alike to the last digits": unit(normal(1, WIDTH)) + 3e-8 * normal(150, WIDTH),
    "with copies": unit(normal(50, WIDTH))[RANDOM.integers(50, size=150)],
    "with zeros": unit(normal(150, WIDTH)) * (RANDOM.random((150, 1)) < 0.5),
    "zeros": np.zeros((150, WIDTH)),
    "huge": unit(normal(150, WIDTH)) * 1e18,
    "tiny": unit(normal(150, WIDTH)) * 1e-18,
    "with subnormal scores": unit(normal(150, WIDTH)) * 1e-21,
    "subnormal numbers": unit(normal(150, WIDTH)) * 1e-38,
}
with np.errstate(under="ignore"):
    VECTORS = {name: vectors.astype(np.float32) for name, vectors in VECTORS.items()}


def block(vectors: np.ndarray) -> VectorBlock:
    nothing = np.zeros(len(vectors), np.int8)
    (whole,) = cut_into_blocks(vectors, np.arange(len(vectors)), nothing, nothing, 1000)
    return whole


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("kind", products_of_each_kind())
def test_a_coarse_score_is_as_near_as_its_margins_say(kind, case: str) -> None:
    vectors = VECTORS[case]
    rows, columns = kind.operand(vectors[:70]), kind.operand(vectors[70:])
    found = kind.multiply(rows, columns).astype(np.float64) * rows.unit * columns.unit
    scores = rounded_products(vectors[:70], vectors[70:]).astype(np.float64)
    off = np.abs(found - scores)
    assert (off <= margins(rows, columns)[:, None]).all()
    assert (off <= margins(columns, rows)).all()
    if case == "unit":
        assert margins(rows, columns).max() < 8e-3, "a bound that leaves all open would hold as well"


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("kind", products_of_each_kind())
@pytest.mark.parametrize("side", [0, 1], ids=["rows ask", "columns ask"])
def test_what_is_ahead_of_bars_is_what_plain_comparison_says(monkeypatch, kind, case: str, side: int) -> None:
    monkeypatch.setattr(screen, "_FEW", 1.0)
    monkeypatch.setattr(screen, "kinds_of_products", lambda width: [kind])
    monkeypatch.setattr(screen, "_PIECE", 4000)
    rows, columns = block(VECTORS[case][:70]), block(VECTORS[case][70:])
    scores = rounded_products(rows.vectors, columns.vectors)
    seen = scores.T if side else scores
    place = RANDOM.integers(seen.shape[1], size=len(seen))
    bars = np.take_along_axis(seen, place[:, None], axis=1)[:, 0]  # scores, so that there are ties
    bars[::3] = np.nextafter(bars[::3], np.float32(np.inf))
    bars[1::7], bars[2::7] = -np.inf, np.inf
    expected = [(seen >= bars[:, None]).sum(axis=1), (seen > bars[:, None]).sum(axis=1)]
    for found in (TileScores(scores), None):
        look = lambda each: each.ahead(side, bars)  # noqa: E731
        ahead = look(found) if found else Screen([rows], [columns]).sift((0, 0), look)[0]
        np.testing.assert_array_equal(ahead, expected)


class Sink:
    """Take scores, so that whole tiles are made."""

    def write(self, images, captions, scores) -> None:
        self.seen = scores


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("way", ["digits", "int16", "bfloat16", "float32", "without oneDNN", "without both"])
@pytest.mark.parametrize("folds", [1, 3])
def test_ranks_are_those_of_whole_tiles_and_of_plain_loops(
    monkeypatch, case: str, way: str, folds: int
) -> None:
    if way.startswith("without"):
        without_bfloat16(monkeypatch)
        if way == "without both":
            without_mkl(monkeypatch)
    else:
        quickest_are(monkeypatch, way)
    vectors = VECTORS[case]
    images, texts = vectors[:60], vectors[40:]  # some of either side are the same
    sentence = np.concatenate([np.arange(110), RANDOM.integers(110, size=20)])
    owner = RANDOM.integers(60, size=130)
    image_fold = np.arange(60) % folds
    question = Question(
        Relevance.of((60, 130), owner, np.arange(130)),
        image_fold,
        RANDOM.integers(folds, size=130),
        Relevance.of((60, 130), RANDOM.integers(60, size=50), RANDOM.integers(130, size=50)),
    )
    arguments = {"block_size": 32, "caption_sentence": sentence}
    screened = []
    for sparse in (1, 10**6):  # relevant pairs one by one, and whole tiles of them
        monkeypatch.setattr(ranks, "_SPARSE", sparse)
        screened += rank_counters(images, texts, [question, question], **arguments)
    whole = rank_counters(images, texts, [question, question], **arguments, scores_out=[Sink()])
    scores = rounded_products(images, texts)[:, sentence]
    right, ignored = (
        each.are_right(np.arange(60)[:, None], np.arange(130))
        for each in (question.relevance, question.ignored)
    )
    compete = image_fold[:, None] == question.caption_fold
    for side in (0, 1):
        turn = (lambda x: x.T) if side else (lambda x: x)
        best = np.where(turn(right & compete), turn(scores), -np.inf).max(axis=1, keepdims=True)
        rivals = turn(compete & ~right & ~ignored)
        for counters in (*screened, *whole):
            tied = counters[side].tied()
            np.testing.assert_array_equal(tied.against, (rivals & (turn(scores) >= best)).sum(axis=1))
            np.testing.assert_array_equal(tied.favour, (rivals & (turn(scores) > best)).sum(axis=1))


def test_products_that_leave_all_open_are_not_tried_for_a_while(monkeypatch) -> None:
    first, second = kinds_of_products(1000)[0], kinds_of_products(2)[0]
    monkeypatch.setattr(screen, "kinds_of_products", lambda width: [first, second])
    vectors = block(VECTORS["nearly alike"])
    tried = Screen([vectors], [vectors])
    failing = [True]
    kinds = []

    def look(scores: TileScores) -> str:
        kinds.append(scores)
        if failing[0] and scores._margins is not None:
            raise TooManyOpenError
        return "found"

    counts = []
    for _ in range(90):
        kinds.clear()
        assert tried.sift((0, 0), look) == ["found"]
        counts.append(len(kinds))
    assert counts == [3] * 4 + [1] * 28 + [3] + [1] * 56 + [3], "they are tried again after longer and longer"
    failing[0] = False
    for _ in range(112):
        tried.sift((0, 0), look)
    kinds.clear()
    tried.sift((0, 0), look)
    assert len(kinds) == 1 and kinds[0]._margins is not None, "what works again stays"
    tried.sift((0, 0), look)
    assert len(kinds) == 2


def test_finer_coarse_products_stand_behind_those_of_eight_bits(monkeypatch) -> None:
    kinds_for = lambda width: [type(kind).__name__ for kind in kinds_of_products(width)]  # noqa: E731
    for quick, expected in (
        ({"coarse": "bfloat16", "fine": "digits"}, ["Bfloat16Products", "DigitProducts", "SingleProducts"]),
        ({"coarse": "bfloat16", "fine": "float32"}, ["Bfloat16Products", "SingleProducts"]),
        ({"coarse": "int16", "fine": "int16"}, ["Int16Products", "SingleProducts"]),
        ({"coarse": "float32", "fine": "float32"}, ["SingleProducts"]),
    ):
        monkeypatch.setattr(coarse, "quickest", quick.get)
        assert kinds_for(1000) == expected
        assert kinds_for(2) == ["SingleProducts"]


def test_looks_share_products_and_one_alone_is_shown_finer_ones() -> None:
    vectors = block(VECTORS["unit"])
    tried, seen = Screen([vectors], [vectors]), {"coarse": [], "picky": []}

    def look(name: str, scores: TileScores) -> str:
        seen[name].append(scores)
        if name == "picky" and scores._margins is not None:
            raise TooManyOpenError
        return name

    assert tried.sift(
        (0, 0), lambda scores: look("picky", scores), lambda scores: look("coarse", scores)
    ) == [
        "picky",
        "coarse",
    ]
    assert len(seen["coarse"]) == 1 and seen["picky"][0] is seen["coarse"][0]
    assert seen["picky"][-1]._margins is None


def test_operands_that_do_not_fit_into_memory_are_made_again(monkeypatch) -> None:
    monkeypatch.setattr(screen, "_KEPT_BYTES", 1)
    vectors = VECTORS["unit"]
    question = Question(Relevance.of((150, 150), np.arange(150), np.arange(150)[::-1]))
    found = rank_counters(vectors, vectors, question, block_size=40)
    monkeypatch.undo()
    expected = rank_counters(vectors, vectors, question, block_size=40)
    for side in (0, 1):
        np.testing.assert_array_equal(found[0][side].counts, expected[0][side].counts)
