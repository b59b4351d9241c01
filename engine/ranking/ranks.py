"""Computes ranks in both directions from embeddings, without the whole score matrix in memory.

A first pass finds the best relevant score of every image and caption. A second pass counts the irrelevant
items that are ahead of this score, for both directions at once, in tiles of at most `block_size` by
`block_size` vectors.

Inner products of float32 vectors are screened (`screen`): coarse products tell for most pairs that they are
ahead, or are not, and only the others are multiplied exactly; short lists are filled on the way
(`short_lists`). Where all scores are asked for, and for other similarities, whole tiles are made. The first
pass multiplies the relevant pairs one by one, or, if they are many and for other similarities, makes the
tiles that hold them.

Ties are exact. An inner product is rounded once (`rounded`), wherever it is made. Another similarity may
round one pair of vectors differently in two places. So equal vectors (a sentence that describes several
images, a picture that occurs twice) share one score, and a tile that both passes need is kept, or made again
from the same operands.

Processes of a job may share the tiles, and then all-reduce the best scores and the counts. The tiles do not
depend on the number of processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from datasets.prefetch import prefetched
from datasets.relevance import Relevance
from engine.parallel.processes import all_or_none, all_reduce
from engine.ranking.counter import RankCounter
from engine.ranking.metrics import Ids, check_every_group_occurs, group_numbers
from engine.ranking.rounded import PairScores, rounded_pairs
from engine.ranking.screen import Screen, TileScores
from engine.ranking.short_lists import ListSink, ScoreSink
from engine.ranking.similarity import Similarity, check_magnitude, inner_products, similarity_of
from engine.ranking.tiles import Tiles, TileSide, cut_into_blocks
from engine.runtime import choose_threads

_TOGETHER = 1024  # relevant pairs that one thread multiplies at a time
_SPARSE = 512  # with one pair in so many relevant, or fewer, whole tiles would take longer than these pairs
Ahead = tuple[RankCounter, np.ndarray, np.ndarray]  # counter, queries [n], rivals ahead of them [2,n]
RanksBothWays = tuple[np.ndarray, np.ndarray]  # of the images [N], of the captions [M]


def retrieval_ranks(
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    image_ids: Ids,
    caption_image_ids: Ids,
    measure: str | Similarity = "cosine",
    block_size: int = 1024,
    tie_rule: str = "against",
    caption_sentence: np.ndarray | None = None,
    image_fold: np.ndarray | None = None,
    caption_fold: np.ndarray | None = None,
    scores_out: Sequence[ScoreSink] = (),
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] = (0, 1),
) -> RanksBothWays:
    """Return the 0-based ranks of every image's best caption [N] and of every caption's best image [M].

    An image and a caption are relevant to each other if `image_ids` [N] and `caption_image_ids` [M] are
    equal. The other arguments are those of `rank_counters`. Raises ValueError as it does, and for an image or
    caption without a relevant item in its fold.
    """
    image_fold = np.zeros(len(image_ids), np.int32) if image_fold is None else image_fold
    caption_fold = np.zeros(len(caption_image_ids), np.int32) if caption_fold is None else caption_fold
    _check_lengths("images", ids=len(image_ids), embeddings=len(image_emb), folds=len(image_fold))
    sentences = len(text_emb if caption_sentence is None else caption_sentence)
    _check_lengths("captions", ids=len(caption_image_ids), sentences=sentences, folds=len(caption_fold))
    image_group, caption_group = _group_numbers_of_folds(
        image_ids, caption_image_ids, image_fold, caption_fold
    )
    check_every_group_occurs(image_group, caption_group, image_ids, "image")
    check_every_group_occurs(caption_group, image_group, caption_image_ids, "caption")
    question = Question(Relevance.of_groups(image_group, caption_group), image_fold, caption_fold)
    [(of_images, of_captions)] = rank_counters(
        image_emb,
        text_emb,
        question,
        measure,
        block_size,
        tie_rule,
        caption_sentence,
        scores_out,
        progress,
        part,
    )
    return of_images.ranks(), of_captions.ranks()


@dataclass(frozen=True)
class Question:
    """What ranks are counted of: which pairs are right, which compete, and which count neither way.

    `relevance` [N,M] says which images and captions are right for each other. They compete if `image_fold`
    [N] and `caption_fold` [M] are equal (integers from 0; None: all compete). `ignored` pairs are neither
    right nor rivals, such as an item and itself.
    """

    relevance: Relevance
    image_fold: np.ndarray | None = None
    caption_fold: np.ndarray | None = None
    ignored: Relevance | None = None

    def turned(self) -> "Question":
        """Return the same question with captions as rows."""
        ignored = self.ignored.turned if self.ignored else None
        return Question(self.relevance.turned, self.caption_fold, self.image_fold, ignored)


class _Counting:
    """The counters of both directions of a question."""

    def __init__(self, question: Question, tie_rule: str, dtype: DTypeLike) -> None:
        images, captions = question.relevance.shape
        folds = (question.image_fold, images), (question.caption_fold, captions)
        self.image_fold, self.caption_fold = (
            np.zeros(count, np.int32) if fold is None else fold for fold, count in folds
        )
        self.relevance = question.relevance.within(self.image_fold, self.caption_fold)
        ignored = [question.ignored.within(self.image_fold, self.caption_fold)] if question.ignored else []
        left_out = [self.relevance, *ignored]
        rows, columns = ([getattr(each, side) for each in left_out] for side in ("images", "captions"))
        self.not_rivals = Relevance.of((images, captions), np.concatenate(rows), np.concatenate(columns))
        self.counters = RankCounter(images, tie_rule, dtype), RankCounter(captions, tie_rule, dtype)

    def see_relevant(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Update the best with the right ones among `scores` [I,T] of distinct images and captions."""
        row, column = self.relevance.among(images, captions)
        self.see_relevant_pairs(images[row], captions[column], scores[row, column])

    def see_relevant_pairs(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Update the best with `scores` [n] of right pairs, `images` [n] and `captions` [n]."""
        self.counters[0].see_relevant(images, scores)
        self.counters[1].see_relevant(captions, scores)

    def compete(self, images: TileSide, captions: TileSide) -> bool:
        """Tell whether any of `images` and `captions` are of one fold."""
        folds = self.image_fold[images.places], self.caption_fold[captions.places]
        return len(np.intersect1d(*folds)) > 0

    def rivals_ahead(self, images: np.ndarray, captions: np.ndarray, scores: TileScores) -> list[Ahead]:
        """Return how many rivals are ahead by the scores [I,T] of distinct images and captions.

        Raises `TooManyOpenError` as `TileScores.ahead` does.
        """
        rows, columns = self.image_fold[images], self.caption_fold[captions]
        if (rows == rows[0]).all() and (columns == rows[0]).all():
            return self._competing_ahead(images, captions, scores)
        found = []
        for fold in np.intersect1d(rows, columns):
            row, column = np.flatnonzero(rows == fold), np.flatnonzero(columns == fold)
            found += self._competing_ahead(images[row], captions[column], scores.of_items(row, column))
        return found

    def _competing_ahead(self, images: np.ndarray, captions: np.ndarray, scores: TileScores) -> list[Ahead]:
        sides = list(zip(self.counters, (images, captions), strict=True))
        with scores.without(*self.not_rivals.among(images, captions)):
            return [
                (counter, queries, scores.ahead(side, counter.best[queries]))
                for side, (counter, queries) in enumerate(sides)
            ]


def rank_counters(
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    questions: Question | Sequence[Question],
    measure: str | Similarity = "cosine",
    block_size: int = 1024,
    tie_rule: str = "against",
    caption_sentence: np.ndarray | None = None,
    scores_out: Sequence[ScoreSink] = (),
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] = (0, 1),
    lists_out: Sequence[ListSink] = (),
) -> list[tuple[RankCounter, RankCounter]]:
    """Return, for each question, the counters of the N images among captions and of the M captions.

    Scores are made in the precision of `image_emb` [N,D] and `text_emb` [S,D], once for all questions. The
    embedding of caption m is `text_emb[caption_sentence[m]]` (default: row m). A query without a right item
    has all rivals ahead. `measure` "cosine" is the inner product, "order" is -||max(0, text - image)|| (arXiv
    1511.06361, eq. 2); a function takes images [I,D] and texts [T,D] and returns scores [I,T]. `tie_rule` is
    a key of `engine.ranking.counter.TIE_RULES`.

    Each of `scores_out` receives the scores of all pairs, the very numbers that the ranks are counted from,
    and each of `lists_out` those that lead among pairs that compete; with `part`, of this process's tiles.
    `progress` is called with the tiles done and their total. `part` holds the number of this process and the
    number of processes that share the tiles; all of them call this function, and get all ranks. Raises
    ValueError for an embedding that is not finite (or too large to multiply).
    """
    similarity = similarity_of(measure) if isinstance(measure, str) else measure
    caption_sentence = np.arange(len(text_emb)) if caption_sentence is None else caption_sentence
    check_magnitude("image", image_emb)
    check_magnitude("sentence", text_emb)
    asked = [questions] if isinstance(questions, Question) else list(questions)
    dtype = np.result_type(image_emb, text_emb)
    counting = [_Counting(question, tie_rule, dtype) for question in asked]
    image_group, caption_group = _neighbours(counting[0].relevance)
    image_fold, caption_fold = counting[0].image_fold, counting[0].caption_fold
    image_blocks = cut_into_blocks(image_emb, np.arange(len(image_emb)), image_group, image_fold, block_size)
    caption_blocks = cut_into_blocks(text_emb, caption_sentence, caption_group, caption_fold, block_size)
    tiles = Tiles(image_blocks, caption_blocks, similarity)
    needed = (tiles.all() if scores_out or len(asked) > 1 else tiles.competing())[part[0] :: part[1]]
    whole = _WholeTiles(tiles, counting, [*scores_out, *lists_out])
    rounded = similarity is inner_products and dtype == np.float32
    right = sum(len(each.relevance.images) for each in counting)
    if rounded and right * _SPARSE <= len(image_emb) * len(caption_sentence):
        best = _relevant_pairs(counting, image_emb, text_emb, caption_sentence, part)
    else:
        held = [tiles.holding(each.relevance.images, each.relevance.captions) for each in counting]
        related = sorted(set(needed).intersection(set().union(*held)))
        best = len(related), whole.find_best(related)
    if rounded and not scores_out:
        screened = _ScreenedTiles(tiles, Screen(image_blocks, caption_blocks), counting, lists_out)
        rivals = screened.count_rivals(needed, PairScores(image_emb, text_emb, caption_sentence))
    else:
        rivals = whole.count_rivals(needed)
    _count(best, (len(needed), rivals), counting, progress, part[1])
    return [each.counters for each in counting]


def row_counter(scores: np.ndarray, question: Question, tie_rule: str = "against") -> RankCounter:
    """Return the counter of one direction from whole rows of `scores` [N,M], which may be a transposed view.

    The question's images are the rows.
    """
    counting = _Counting(question, tie_rule, np.result_type(scores, np.float32))
    counter, pairs = counting.counters[0], counting.relevance
    counter.see_relevant(pairs.images, scores[pairs.images, pairs.captions])
    items = np.arange(scores.shape[1])
    step = max(1, (1 << 22) // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        block = np.array(scores[start : start + step], order="C")
        _add(counting.rivals_ahead(np.arange(start, start + len(block)), items, TileScores(block)))
    return counter


def _neighbours(relevance: Relevance) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the images [N] and the captions [M] by which right ones come into common blocks.

    Images keep their order, and a caption has the number of the first image that it is right for.
    """
    caption_group = np.full(relevance.shape[1], relevance.shape[0], np.int32)
    np.minimum.at(caption_group, relevance.captions, relevance.images.astype(np.int32))
    return np.arange(relevance.shape[0], dtype=np.int32), caption_group


Steps = tuple[int, Iterator[None]]  # how many there are, and what makes one at a time


def _relevant_pairs(
    counting: list[_Counting],
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    caption_sentence: np.ndarray,
    part: tuple[int, int],
) -> Steps:
    """Show the counters the scores of this process's relevant pairs, which threads multiply one by one."""
    pieces = [
        (each, slice(start, start + _TOGETHER))
        for each in counting
        for start in range(0, len(each.relevance.images), _TOGETHER)
    ][part[0] :: part[1]]

    def multiply(piece: tuple[_Counting, slice]) -> tuple[_Counting, np.ndarray, np.ndarray, np.ndarray]:
        each, which = piece
        images, captions = each.relevance.images[which], each.relevance.captions[which]
        return each, images, captions, rounded_pairs(image_emb[images], text_emb[caption_sentence[captions]])

    def steps() -> Iterator[None]:
        for each, *pairs in prefetched(multiply, pieces, choose_threads()):
            each.see_relevant_pairs(*pairs)
            yield

    return len(pieces), steps()


class _WholeTiles:
    """The two passes over tiles whose scores are all made; `sinks` receive them."""

    def __init__(self, tiles: Tiles, counting: list[_Counting], sinks: Sequence[ScoreSink]) -> None:
        self._tiles, self._counting, self._sinks = tiles, counting, sinks

    def find_best(self, tiles: list[tuple[int, int]]) -> Iterator[None]:
        """Show the counters the scores of the relevant pairs; yield after each tile."""
        for scored in self._tiles.scores(tiles, keep=True):
            for images, captions, scores in scored:
                for each in self._counting:
                    each.see_relevant(images.places, captions.places, scores)
            yield

    def count_rivals(self, tiles: list[tuple[int, int]]) -> Iterator[None]:
        """Count the rivals by the best scores of all processes; yield after each tile."""
        for scored in self._tiles.scores(tiles, keep=False):
            for images, captions, scores in scored:
                for each in self._counting:
                    _add(each.rivals_ahead(images.places, captions.places, TileScores(scores)))
                for sink in self._sinks:
                    sink.write(images.places, captions.places, scores)
            yield


class _ScreenedTiles:
    """The second pass over tiles of which only those scores are made that a screen leaves open.

    `lists` receive what leads. Threads share the tiles.
    """

    def __init__(
        self, tiles: Tiles, screen: Screen, counting: list[_Counting], lists: Sequence[ListSink]
    ) -> None:
        self._tiles, self._screen, self._counting, self._lists = tiles, screen, counting, lists

    def count_rivals(self, tiles: list[tuple[int, int]], pair_scores: PairScores) -> Iterator[None]:
        """Count the rivals by the best scores of all processes; yield after each tile."""
        for found in prefetched(self._rivals, Screen.in_order(tiles), choose_threads()):
            _add(found)
            yield
        for each in self._lists:
            each.settle(pair_scores)

    def _rivals(self, tile: tuple[int, int]) -> list[Ahead]:
        asked = [
            each for each in self._counting if any(each.compete(*sides) for sides in self._tiles.sides(tile))
        ]
        looks = [partial(self._ahead, tile, counting=each) for each in asked]
        *found, receive = self._screen.sift(tile, *looks, partial(self._leading, tile))
        for each in receive:
            each()
        return [ahead for each in found for ahead in each]

    def _ahead(self, tile: tuple[int, int], scores: TileScores, counting: _Counting) -> list[Ahead]:
        return [ahead for part in self._parts(tile, scores) for ahead in counting.rivals_ahead(*part)]

    def _leading(self, tile: tuple[int, int], scores: TileScores) -> list[Callable[[], None]]:
        return [each.screen(*part) for each in self._lists for part in self._parts(tile, scores)]

    def _parts(
        self, tile: tuple[int, int], scores: TileScores
    ) -> Iterator[tuple[np.ndarray, np.ndarray, TileScores]]:
        for images, captions in self._tiles.sides(tile):
            yield images.places, captions.places, scores.of_items(images.vector_of, captions.vector_of)


def _add(found: Iterable[Ahead]) -> None:
    for counter, queries, ahead in found:
        counter.add(queries, ahead)


def _count(
    best: Steps,
    rivals: Steps,
    counting: list[_Counting],
    progress: Callable[[int, int], None] | None,
    processes: int,
) -> None:
    """Take the steps of both passes, and all-reduce the result of each."""
    total = best[0] + rivals[0]

    def exhaust(steps: Iterator[None], done: int) -> None:
        for number, _ in enumerate(steps, start=done + 1):
            if progress:
                progress(number, total)

    if processes == 1:
        exhaust(best[1], 0)
        exhaust(rivals[1], best[0])
        return
    counters = [counter for each in counting for counter in each.counters]
    all_or_none(lambda: exhaust(best[1], 0))
    for counter in counters:
        counter.best = all_reduce(counter.best, "max")
    all_or_none(lambda: exhaust(rivals[1], best[0]))
    for counter in counters:
        counter.counts = all_reduce(counter.counts, "sum")


def _group_numbers_of_folds(
    image_ids: Ids, caption_image_ids: Ids, image_fold: np.ndarray, caption_fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the pairs of id and fold in the order in which the images first show them.

    Returns the numbers of the images [N] and of the captions [M].
    """
    ids = np.concatenate(group_numbers(image_ids, caption_image_ids)).astype(np.int64)
    folds = np.concatenate([image_fold, caption_fold])
    keys = ids * (folds.max() + 1) + folds
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.argsort(np.argsort(first)).astype(np.int32)[inverse]
    return numbers[: len(image_ids)], numbers[len(image_ids) :]


def _check_lengths(what: str, **lengths: int) -> None:
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"{what}: expected as many of each, at least one, got {found}")
