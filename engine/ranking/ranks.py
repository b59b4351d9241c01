"""Computes ranks in both directions from embeddings, without the whole score matrix in memory.

Scores are made in tiles of at most `block_size` by `block_size` vectors. A first pass, over the tiles that
hold relevant pairs, finds the best relevant score of every image and caption. A second pass, over all tiles,
counts the irrelevant items that are ahead of this score, for both directions at once.

Ties are exact. A matrix product may round one pair of vectors differently in two places. So equal vectors (a
sentence that describes several images, a picture that occurs twice) are multiplied once and share that score,
and a tile that both passes need is kept, or made again from the same operands.

Processes of a job may share the tiles, and then all-reduce the best scores and the counts. The tiles do not
depend on the number of processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from datasets.relevance import Relevance
from engine.parallel.processes import all_or_none, all_reduce
from engine.ranking.counter import RankCounter
from engine.ranking.metrics import Ids, check_every_group_occurs, group_numbers
from engine.ranking.similarity import Similarity, check_magnitude, similarity_of
from engine.ranking.tiles import Tiles, cut_into_blocks

Step = TypeVar("Step")
# Right pairs of several questions are in all tiles, such as those of CxC: room for all scores of COCO 5K.
SEVERAL_KEEP = 512 << 20
RanksBothWays = tuple[np.ndarray, np.ndarray]  # of the images [N], of the captions [M]


class ScoreSink(Protocol):
    """A receiver of the scores, tile by tile."""

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Receive the `scores` [I,T] of the images and captions at these places."""


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
    scores_out: ScoreSink | None = None,
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
        self.image_fold = np.zeros(images, np.int32) if question.image_fold is None else question.image_fold
        self.caption_fold = (
            np.zeros(captions, np.int32) if question.caption_fold is None else question.caption_fold
        )
        self.relevance = question.relevance.within(self.image_fold, self.caption_fold)
        left_out = (
            [self.relevance, question.ignored.within(self.image_fold, self.caption_fold)]
            if (question.ignored)
            else [self.relevance]
        )
        pairs = [
            np.concatenate([getattr(each, name) for each in left_out]) for name in ("images", "captions")
        ]
        self.not_rivals = Relevance.of((images, captions), *pairs)
        self.counters = RankCounter(images, tie_rule, dtype), RankCounter(captions, tie_rule, dtype)

    def see_relevant(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Update the best with the right ones among `scores` [I,T] of distinct images and captions."""
        row, column = self.relevance.among(images, captions)
        right = scores[row, column]
        self.counters[0].see_relevant(images[row], right)
        self.counters[1].see_relevant(captions[column], right)

    def see_rivals(
        self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray, both: bool = True
    ) -> None:
        """Count the rivals among `scores` [I,T] of distinct images and captions, for the images or `both`."""
        rows, columns = self.image_fold[images], self.caption_fold[captions]
        if (rows != rows[0]).any() or (columns != rows[0]).any():
            for fold in np.intersect1d(rows, columns):
                row, column = np.flatnonzero(rows == fold), np.flatnonzero(columns == fold)
                self._see_competing(images[row], captions[column], scores[np.ix_(row, column)], both)
        else:
            self._see_competing(images, captions, scores, both)

    def _see_competing(
        self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray, both: bool
    ) -> None:
        row, column = self.not_rivals.among(images, captions)
        values = scores[row, column]
        of_images, of_captions = self.counters
        of_images.see_rival_rows(images, scores)
        of_images.leave_out(images[row], values)
        if both:
            of_captions.see_rival_rows(captions, scores.T)
            of_captions.leave_out(captions[column], values)


def rank_counters(
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    questions: Question | Sequence[Question],
    measure: str | Similarity = "cosine",
    block_size: int = 1024,
    tie_rule: str = "against",
    caption_sentence: np.ndarray | None = None,
    scores_out: ScoreSink | None = None,
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] = (0, 1),
    lists_out: Sequence[ScoreSink] = (),
) -> list[tuple[RankCounter, RankCounter]]:
    """Return, for each question, the counters of the N images among captions and of the M captions.

    Scores are made in the precision of `image_emb` [N,D] and `text_emb` [S,D], once for all questions. The
    embedding of caption m is `text_emb[caption_sentence[m]]` (default: row m). A query without a right item
    has all rivals ahead. `measure` "cosine" is the inner product, "order" is -||max(0, text - image)|| (arXiv
    1511.06361, eq. 2); a function takes images [I,D] and texts [T,D] and returns scores [I,T]. `tie_rule` is
    a key of `engine.ranking.counter.TIE_RULES`.

    `scores_out` receives the scores of all pairs, the very numbers that the ranks are counted from, and
    `lists_out` those of all pairs that compete; with `part`, of this process's tiles.
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
    kept = SEVERAL_KEEP if len(asked) > 1 else None
    tiles = Tiles(image_blocks, caption_blocks, similarity, kept)
    needs_all = scores_out is not None or len(asked) > 1
    needed = (tiles.all() if needs_all else tiles.competing())[part[0] :: part[1]]
    sinks = [*([scores_out] if scores_out else []), *lists_out]
    _count_over_tiles(tiles, needed, counting, sinks, progress, part)
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
        block = np.ascontiguousarray(scores[start : start + step])
        counting.see_rivals(np.arange(start, start + len(block)), items, block, both=False)
    return counter


def _neighbours(relevance: Relevance) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the images [N] and the captions [M] by which right ones come into common blocks.

    Images keep their order, and a caption has the number of the first image that it is right for.
    """
    caption_group = np.full(relevance.shape[1], relevance.shape[0], np.int32)
    np.minimum.at(caption_group, relevance.captions, relevance.images.astype(np.int32))
    return np.arange(relevance.shape[0], dtype=np.int32), caption_group


def _count_over_tiles(
    tiles: Tiles,
    needed: list[tuple[int, int]],
    counting: list[_Counting],
    sinks: Sequence[ScoreSink],
    progress: Callable[[int, int], None] | None,
    part: tuple[int, int],
) -> None:
    """Make the two passes over this process's tiles, and all-reduce the result of each."""
    holding = set()
    for each in counting:
        holding.update(tiles.holding(each.relevance.images, each.relevance.captions))
    related = sorted(holding.intersection(needed))
    total = len(related) + len(needed)

    def find_best() -> None:
        for scored in _with_progress(tiles.scores(related, keep=True), progress, 0, total):
            for images, captions, scores in scored:
                for each in counting:
                    each.see_relevant(images.places, captions.places, scores)

    def count_rivals() -> None:
        for scored in _with_progress(tiles.scores(needed, keep=False), progress, len(related), total):
            for images, captions, scores in scored:
                for each in counting:
                    each.see_rivals(images.places, captions.places, scores)
                for sink in sinks:
                    sink.write(images.places, captions.places, scores)

    if part[1] == 1:
        find_best()
        count_rivals()
        return
    counters = [counter for each in counting for counter in each.counters]
    all_or_none(find_best)
    for counter in counters:
        counter.best = all_reduce(counter.best, "max")
    all_or_none(count_rivals)
    for counter in counters:
        counter.counts = all_reduce(counter.counts, "sum")


def _group_numbers_of_folds(
    image_ids: Ids, caption_image_ids: Ids, image_fold: np.ndarray, caption_fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the pairs of id and fold in the order in which the images first show them.

    Returns the numbers of the images [N] and of the captions [M].
    """
    ids, folds = (
        np.concatenate(group_numbers(image_ids, caption_image_ids)),
        np.concatenate([image_fold, caption_fold]),
    )
    _, first, inverse = np.unique(
        ids.astype(np.int64) * (folds.max() + 1) + folds, return_index=True, return_inverse=True
    )
    numbers = np.argsort(np.argsort(first)).astype(np.int32)[inverse]
    return numbers[: len(image_ids)], numbers[len(image_ids) :]


def _with_progress(
    steps: Iterable[Step], progress: Callable[[int, int], None] | None, done: int, total: int
) -> Iterator[Step]:
    for number, step in enumerate(steps, start=done + 1):
        yield step
        if progress:
            progress(number, total)


def _check_lengths(what: str, **lengths: int) -> None:
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"{what}: expected as many of each, at least one, got {found}")
