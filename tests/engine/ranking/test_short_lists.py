"""Short lists from screened tiles are, to the last bit, those of whole tiles and of plain sorting."""

from itertools import pairwise

import numpy as np
import pytest

from datasets.relevance import Relevance
from engine.ranking import screen, short_lists
from engine.ranking.ranks import Question, rank_counters
from engine.ranking.rounded import rounded_products
from engine.ranking.screen import TileScores, TooManyOpenError
from engine.ranking.short_lists import ShortLists
from engine.ranking.similarity import inner_products
from engine.ranking.tiles import cut_into_blocks
from tests.other_processors import without_bfloat16, without_mkl

RANDOM = np.random.default_rng(0)
WIDTH = 200


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape)


VECTORS = {
    "unit": unit(normal(400, WIDTH)),
    "with copies": unit(normal(60, WIDTH))[RANDOM.integers(60, size=400)],
    "whole numbers": RANDOM.integers(-2, 3, (400, WIDTH)).astype(np.float32),
    "one number": RANDOM.integers(-1, 2, (400, WIDTH)).astype(np.float32) * (np.arange(WIDTH) < 2),
    "nearly alike": (unit(normal(1, WIDTH)) + 1e-6 * normal(400, WIDTH)).astype(np.float32),
    "alike to the last digits": (unit(normal(1, WIDTH)) + 3e-8 * normal(400, WIDTH)).astype(np.float32),
    "of all lengths": (normal(400, WIDTH) * 10.0 ** RANDOM.uniform(-8, 8, (400, 1))).astype(np.float32),
    "zeros": np.zeros((400, WIDTH), np.float32),
}


class Sink:
    """Take all scores, so that whole tiles are made."""

    def write(self, images, captions, scores) -> None:
        self.seen = scores


class Asked:
    """Questions about 150 images and 300 captions; some sentences describe several images."""

    def __init__(self, vectors: np.ndarray, folds: int) -> None:
        self.images, self.texts = vectors[:150], vectors[150:]
        self.sentence = np.concatenate([np.arange(250), RANDOM.integers(250, size=50)])
        owner = RANDOM.integers(150, size=300)
        self.image_fold = np.arange(150) % folds
        self.caption_fold = self.image_fold[owner]
        self.relevance = Relevance.of((150, 300), owner, np.arange(300))
        self.question = Question(self.relevance, self.image_fold, self.caption_fold)

    def lists(self, k: int, **further) -> ShortLists:
        """Return the lists that ranking the captions fills."""
        found = ShortLists(k, self.image_fold, self.caption_fold, self.sentence)
        rank_counters(
            self.images,
            self.texts,
            self.question,
            **{"block_size": 64, "caption_sentence": self.sentence, "lists_out": [found]} | further,
        )
        return found

    def sorted_lists(self, k: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return the lists of both directions by sorting all scores."""
        scores = rounded_products(self.images, self.texts)[:, self.sentence]
        of_images, of_captions = [], []
        for image in range(150):
            rivals = np.flatnonzero(self.caption_fold == self.image_fold[image])
            firsts = rivals[np.sort(np.unique(self.sentence[rivals], return_index=True)[1])]
            of_images.append(sorted(firsts.tolist(), key=lambda place: (-scores[image, place], place))[:k])
        for caption in range(300):
            rivals = np.flatnonzero(self.image_fold == self.caption_fold[caption]).tolist()
            of_captions.append(sorted(rivals, key=lambda place: (-scores[place, caption], place))[:k])
        return of_images, of_captions


def assert_equal(found: ShortLists, expected: ShortLists) -> None:
    for name in ("captions_of_image", "images_of_caption", "image_scores", "caption_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.fixture(params=["as here", "without oneDNN", "without both"])
def way(request, monkeypatch) -> str:
    if request.param != "as here":
        without_bfloat16(monkeypatch)
    if request.param == "without both":
        without_mkl(monkeypatch)
    return request.param


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("k, folds", [(1, 1), (7, 1), (20, 3), (500, 3)])
def test_lists_of_screened_tiles_are_those_of_whole_ones_and_of_sorting(
    way, case, k: int, folds: int
) -> None:
    asked = Asked(VECTORS[case], folds)
    found = asked.lists(k)
    assert_equal(found, asked.lists(k, scores_out=[Sink()]))
    of_images, of_captions = asked.sorted_lists(k)
    assert [row[row >= 0].tolist() for row in found.captions_of_image] == of_images
    assert [row[row >= 0].tolist() for row in found.images_of_caption] == of_captions


def test_no_whole_tile_is_made_where_coarse_products_suffice(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(screen, "_FEW", 1.0)
    monkeypatch.setattr(screen, "rounded_products", lambda *sides: made.append(1) or rounded_products(*sides))
    vectors = unit(normal(400, WIDTH) * np.linspace(2, 0.1, WIDTH))
    Asked(vectors, 1).lists(5)
    assert not made


@pytest.mark.parametrize("case", ["unit", "with copies", "zeros"])
def test_pairs_below_the_bars_do_not_wait(monkeypatch, case: str) -> None:
    asked = Asked(VECTORS[case], 1)
    expected = asked.lists(5)
    monkeypatch.setattr(short_lists, "_WAITING", 10)
    monkeypatch.setattr(short_lists, "_SETTLED", 3)
    assert_equal(asked.lists(5), expected)


def test_lists_of_several_processes_are_parts_of_the_whole(monkeypatch) -> None:
    monkeypatch.setattr("engine.ranking.ranks.all_reduce", lambda array, _: array)
    monkeypatch.setattr("engine.ranking.ranks.all_or_none", lambda work: work())
    asked = Asked(VECTORS["with copies"], 1)
    whole = asked.lists(6)
    parts = [asked.lists(6, part=(number, 3)) for number in range(3)]
    for names in (("captions_of_image", "image_scores"), ("images_of_caption", "caption_scores")):
        places, scores = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names)
        order = np.lexsort((places, -scores), axis=1)[:, :6]
        np.testing.assert_array_equal(np.take_along_axis(places, order, axis=1), getattr(whole, names[0]))
        np.testing.assert_array_equal(np.take_along_axis(scores, order, axis=1), getattr(whole, names[1]))


def test_a_similarity_without_coarse_products_fills_lists_from_whole_tiles() -> None:
    asked = Asked(VECTORS["with copies"], 3)
    found = asked.lists(6, measure="order")
    assert_equal(found, asked.lists(6, measure="order", scores_out=[Sink()]))
    assert_equal(asked.lists(6, measure=lambda *sides: inner_products(*sides)), asked.lists(6))


def test_several_questions_fill_lists_once() -> None:
    asked = Asked(VECTORS["unit"], 1)
    expected = asked.lists(6)
    asked.question = [asked.question, asked.question.__class__(asked.relevance)]
    assert_equal(asked.lists(6), expected)


@pytest.mark.parametrize("block_size", [16, 50, 1000])
def test_lists_do_not_depend_on_the_size_of_tiles(block_size: int) -> None:
    asked = Asked(VECTORS["with copies"], 3)
    assert_equal(asked.lists(20, block_size=block_size), asked.lists(20))


def test_all_pairs_of_a_query_are_settled_together(monkeypatch) -> None:
    queries = np.repeat(np.arange(50), RANDOM.integers(1, 9, 50))
    monkeypatch.setattr(short_lists, "_SETTLED", 10)
    parts = short_lists._parts_of_queries(queries)
    assert [part.start for part in parts][1:] == [part.stop for part in parts][:-1]
    assert parts[0].start == 0 and parts[-1].stop == len(queries)
    assert all(queries[a.stop - 1] < queries[b.start] for a, b in pairwise(parts))


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("side", [0, 1], ids=["rows ask", "columns ask"])
def test_bounds_by_coarse_scores_hold(case: str, side: int) -> None:
    vectors, nothing = VECTORS[case][:160], np.zeros(100, np.int8)
    rows, columns = (
        cut_into_blocks(part, np.arange(len(part)), nothing[: len(part)], nothing[: len(part)], 100)
        for part in (vectors[:60], vectors[60:])
    )
    scores = rounded_products(rows[0].vectors, columns[0].vectors)
    seen, k = scores.T if side else scores, min(scores.shape)  # so many that the first bound is the lowest
    kth = np.sort(seen, axis=1)[:, -k]

    def look(coarse: TileScores) -> bool:
        if coarse.exact is not None:
            return False
        assert (coarse.kth_at_least(side, k) <= kth).all()
        query, item, low, high = coarse.may_reach(side, kth, scores.size)
        found = np.zeros(seen.shape, bool)
        found[query, item] = True
        assert found[seen >= kth[:, None]].all() and (np.diff(query) >= 0).all()
        assert (low <= seen[query, item]).all() and (seen[query, item] <= high).all()
        with pytest.raises(TooManyOpenError):
            coarse.may_reach(side, kth, k - 1)
        return True

    assert screen.Screen(rows, columns).sift((0, 0), look)[0]
