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

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from engine.parallel.processes import all_or_none, all_reduce
from engine.ranking.counter import RankCounter
from engine.ranking.metrics import Ids, check_every_group_occurs, group_numbers
from engine.ranking.similarity import Similarity, check_magnitude, similarity_of
from engine.ranking.tiles import Tiles, cut_into_blocks

Step = TypeVar("Step")
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

    Scores are made in the precision of `image_emb` [N,D] and `text_emb` [S,D]. The embedding of caption m is
    `text_emb[caption_sentence[m]]` (default: row m). An image and a caption are relevant to each other if
    `image_ids` [N] and `caption_image_ids` [M] are equal, and they compete if `image_fold` [N] and
    `caption_fold` [M] are equal (integers from 0; default: one fold). `measure` "cosine" is the inner
    product, "order" is -||max(0, text - image)|| (arXiv 1511.06361, eq. 2); a function takes images [I,D] and
    texts [T,D] and returns scores [I,T]. `tie_rule` is a key of `engine.ranking.counter.TIE_RULES`.

    `scores_out` receives the scores of all pairs, the very numbers that the ranks are counted from.
    `progress` is called with the tiles done and their total. `part` holds the number of this process and the
    number of processes that share the tiles; all of them call this function, and get all ranks. Raises
    ValueError for an embedding that is not finite (or too large to multiply), and for an image or caption
    without a relevant item in its fold.
    """
    similarity = similarity_of(measure) if isinstance(measure, str) else measure
    caption_sentence = np.arange(len(text_emb)) if caption_sentence is None else caption_sentence
    image_fold = np.zeros(len(image_ids), np.int32) if image_fold is None else image_fold
    caption_fold = np.zeros(len(caption_image_ids), np.int32) if caption_fold is None else caption_fold
    _check_lengths("images", ids=len(image_ids), embeddings=len(image_emb), folds=len(image_fold))
    _check_lengths(
        "captions", ids=len(caption_image_ids), sentences=len(caption_sentence), folds=len(caption_fold)
    )
    check_magnitude("image", image_emb)
    check_magnitude("sentence", text_emb)
    image_group, caption_group = _group_numbers_of_folds(
        image_ids, caption_image_ids, image_fold, caption_fold
    )
    check_every_group_occurs(image_group, caption_group, image_ids, "image")
    check_every_group_occurs(caption_group, image_group, caption_image_ids, "caption")

    image_blocks = cut_into_blocks(image_emb, np.arange(len(image_emb)), image_group, image_fold, block_size)
    caption_blocks = cut_into_blocks(text_emb, caption_sentence, caption_group, caption_fold, block_size)
    dtype = np.result_type(image_emb, text_emb)
    counters = tuple(RankCounter(len(ids), tie_rule, dtype) for ids in (image_ids, caption_image_ids))
    _count_over_tiles(Tiles(image_blocks, caption_blocks, similarity), counters, scores_out, progress, part)
    return counters[0].ranks(), counters[1].ranks()


def _count_over_tiles(
    tiles: Tiles,
    counters: tuple[RankCounter, RankCounter],
    scores_out: ScoreSink | None,
    progress: Callable[[int, int], None] | None,
    part: tuple[int, int],
) -> None:
    """Make the two passes over this process's tiles, and all-reduce the result of each."""
    needed = (tiles.all() if scores_out else tiles.competing())[part[0] :: part[1]]
    related = sorted(set(tiles.related()).intersection(needed))
    total = len(related) + len(needed)
    of_images, of_captions = counters

    def find_best() -> None:
        for scored in _with_progress(tiles.scores(related, keep=True), progress, 0, total):
            for images, captions, scores in scored:
                relevant = np.where(images.groups[:, None] == captions.groups, scores, -np.inf)
                of_images.see_relevant_rows(images.places, relevant)
                of_captions.see_relevant_rows(captions.places, relevant.T)

    def count_rivals() -> None:
        for scored in _with_progress(tiles.scores(needed, keep=False), progress, len(related), total):
            for images, captions, scores in scored:
                rivals = images.groups[:, None] != captions.groups
                rivals &= images.folds[:, None] == captions.folds
                of_images.see_rival_rows(images.places, scores, rivals)
                of_captions.see_rival_rows(captions.places, scores.T, rivals.T)
                if scores_out:
                    scores_out.write(images.places, captions.places, scores)

    if part[1] == 1:
        find_best()
        count_rivals()
        return
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
