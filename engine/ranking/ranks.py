"""Ranks in both directions from embeddings, without ever holding the whole score matrix.

Scores are made in tiles of at most `block_size` by `block_size` vectors. A first pass over the tiles that
hold relevant pairs finds every item's best relevant score; a second pass over all tiles counts, for both
directions at once, the irrelevant items ahead of it.

Ties are exact. A matrix product may round one pair of vectors differently in two places, so equal vectors
(a sentence that describes several images, a picture that occurs twice) are multiplied once and share that
score, and a tile that both passes need is kept, or made again from the same operands.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from engine.ranking.metrics import (
    Ids,
    average_counts,
    check_every_group_occurs,
    comparisons_of,
    group_numbers,
)
from engine.ranking.similarity import Similarity, check_magnitude, similarity_of
from engine.ranking.tiles import Items, Tiles, blocks_of

Both = tuple[np.ndarray, np.ndarray]  # something of the images, something of the captions


class ScoreSink(Protocol):
    """Something that takes the scores as they are made."""

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Take `scores` [I,T] of the images and captions at these places."""


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
) -> Both:
    """Return the 0-based ranks of every image's best caption [N] and of every caption's best image [M].

    `image_emb` [N,D] and `text_emb` [S,D]: scores are made in their precision. Caption m has the
    embedding `text_emb[caption_sentence[m]]` (default: row m). An image and a caption are relevant to each
    other when `image_ids` [N] and `caption_image_ids` [M] are equal, and compete when `image_fold` [N] and
    `caption_fold` [M] (integers from 0; default: one fold) are. `measure`: "cosine" is the inner product,
    "order" is -||max(0, text - image)|| (arXiv 1511.06361, eq. 2); a function takes images [I,D] and texts
    [T,D] and returns scores [I,T]. `tie_rule`: see `engine.ranking.metrics.ranks`.

    The numbers that are counted are the ones that `scores_out` receives: with it, those of all pairs.
    `progress` is called with the tiles done and their total. Raises ValueError for an embedding that is not
    finite (or too large to multiply), and for an image or caption that has no counterpart in its fold.
    """
    comparisons = comparisons_of(tie_rule)
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
    image_group, caption_group = groups_of(image_ids, caption_image_ids, image_fold, caption_fold)
    check_every_group_occurs(image_group, caption_group, image_ids, "image")
    check_every_group_occurs(caption_group, image_group, caption_image_ids, "caption")

    image_blocks = blocks_of(image_emb, np.arange(len(image_emb)), image_group, image_fold, block_size)
    caption_blocks = blocks_of(text_emb, caption_sentence, caption_group, caption_fold, block_size)
    tiles = Tiles(image_blocks, caption_blocks, similarity)
    dtype = np.result_type(image_emb, text_emb)
    best = np.full(len(image_ids), -np.inf, dtype), np.full(len(caption_sentence), -np.inf, dtype)
    return _ranks_over_tiles(tiles, best, comparisons, scores_out, progress)


def _ranks_over_tiles(
    tiles: Tiles,
    best: Both,
    comparisons: tuple[np.ufunc, ...],
    scores_out: ScoreSink | None,
    progress: Callable[[int, int], None] | None,
) -> Both:
    """Make the two passes; `best`, the best relevant scores of images and captions, starts at -infinity."""
    related, needed = tiles.related(), tiles.all() if scores_out else tiles.competing()
    total = len(related) + len(needed)
    for tile in _announced(related, progress, 0, total):
        for images, captions, scores in tiles.scores(tile, keep=True):
            raise_best(best, images, captions, scores)
    counts = tuple(np.zeros((len(comparisons), len(side)), np.int64) for side in best)
    for tile in _announced(needed, progress, len(related), total):
        for images, captions, scores in tiles.scores(tile, keep=False):
            count_ahead(counts, best, images, captions, scores, comparisons)
            if scores_out:
                scores_out.write(images.places, captions.places, scores)
    return average_counts(counts[0]), average_counts(counts[1])


def raise_best(best: Both, images: Items, captions: Items, scores: np.ndarray) -> None:
    """Take the relevant `scores` [I,T] into the best ones of their images and captions."""
    relevant = images.groups[:, None] == captions.groups
    scores = np.where(relevant, scores, -np.inf)
    best[0][images.places] = np.maximum(best[0][images.places], scores.max(axis=1))
    best[1][captions.places] = np.maximum(best[1][captions.places], scores.max(axis=0))


def count_ahead(
    counts: Both,
    best: Both,
    images: Items,
    captions: Items,
    scores: np.ndarray,
    comparisons: tuple[np.ufunc, ...],
) -> None:
    """Count the irrelevant `scores` [I,T] ahead of the best of their image, and of their caption."""
    rivals = (images.folds[:, None] == captions.folds) & (images.groups[:, None] != captions.groups)
    best_of_image, best_of_caption = best[0][images.places, None], best[1][captions.places]
    for of_image, of_caption, ahead in zip(*counts, comparisons, strict=True):
        of_image[images.places] += (ahead(scores, best_of_image) & rivals).sum(axis=1, dtype=np.int32)
        of_caption[captions.places] += (ahead(scores, best_of_caption) & rivals).sum(axis=0, dtype=np.int32)


def groups_of(
    image_ids: Ids, caption_image_ids: Ids, image_fold: np.ndarray, caption_fold: np.ndarray
) -> Both:
    """Return group numbers, equal where id and fold are equal, counted as the images bring them up."""
    ids, folds = (
        np.concatenate(group_numbers(image_ids, caption_image_ids)),
        np.concatenate([image_fold, caption_fold]),
    )
    _, first, inverse = np.unique(
        ids.astype(np.int64) * (folds.max() + 1) + folds, return_index=True, return_inverse=True
    )
    numbers = np.argsort(np.argsort(first)).astype(np.int32)[inverse]
    return numbers[: len(image_ids)], numbers[len(image_ids) :]


def _announced(
    tiles: list[tuple[int, int]], progress: Callable[[int, int], None] | None, done: int, total: int
) -> Iterator[tuple[int, int]]:
    for number, tile in enumerate(tiles, start=done + 1):
        yield tile
        if progress:
            progress(number, total)


def _check_lengths(what: str, **lengths: int) -> None:
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"{what}: expected as many of each, at least one, got {found}")
