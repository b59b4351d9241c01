"""The short lists of a dual encoder: the items with the highest scores for each image and each caption.

The lists are filled tile by tile, from the very scores that the dual encoder's ranks are counted from.
"""

from dataclasses import dataclass

import numpy as np

from datasets.pairs import top_candidates


@dataclass
class _Lists:
    """The best items so far of each query: `places` int64 [Q,k] in the gallery, -1 for none, and `scores`."""

    places: np.ndarray
    scores: np.ndarray


class ShortLists:
    """A `ScoreSink` that keeps the `k` best captions of each image and the `k` best images of each caption.

    Only images and captions with equal `image_fold` [images] and `caption_fold` [captions] compete. Captions
    with equal `sentence_ids` [captions] say the same; on the lists of images, the first of a fold stands for
    all. Items of equal score are listed in the order of the split.
    """

    def __init__(
        self, k: int, image_fold: np.ndarray, caption_fold: np.ndarray, sentence_ids: np.ndarray
    ) -> None:
        self._folds = image_fold, caption_fold
        of_sentence = np.unique(np.stack([caption_fold, sentence_ids]), axis=1, return_index=True)[1]
        self._listed = np.isin(np.arange(len(caption_fold)), of_sentence)
        self._of_image = _Lists(*_empty(len(image_fold), min(k, len(of_sentence))))
        self._of_caption = _Lists(*_empty(len(caption_fold), min(k, len(image_fold))))

    @property
    def captions_of_image(self) -> np.ndarray:
        """Return the best captions of each image, best first: int64 [images,k], -1 after the last."""
        return self._of_image.places

    @property
    def images_of_caption(self) -> np.ndarray:
        """Return the best images of each caption, best first: int64 [captions,k], -1 after the last."""
        return self._of_caption.places

    @property
    def image_scores(self) -> np.ndarray:
        """Return the scores [images,k] of `captions_of_image`."""
        return self._of_image.scores

    @property
    def caption_scores(self) -> np.ndarray:
        """Return the scores [captions,k] of `images_of_caption`."""
        return self._of_caption.scores

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Merge the `scores` [I,T] of the images and captions at these places into the lists."""
        rows, columns = self._folds[0][images], self._folds[1][captions]
        if (rows != rows[0]).any() or (columns != rows[0]).any():
            scores = np.where(rows[:, None] == columns, scores, -np.inf)
        listed = self._listed[captions]
        if listed.all():
            _merge(self._of_image, images, captions, scores)
        else:
            _merge(self._of_image, images, captions[listed], scores[:, listed])
        _merge(self._of_caption, captions, images, scores.T)


def _empty(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _merge(lists: _Lists, queries: np.ndarray, gallery: np.ndarray, scores: np.ndarray) -> None:
    """Merge the `scores` [Q,G] of `queries` with `gallery`, places of items, into the lists."""
    k = lists.places.shape[1]
    if not len(gallery) or not k:
        return
    bounds = lists.scores[queries, -1]
    open_rows = np.flatnonzero(np.isneginf(bounds))
    if len(open_rows):
        whole = len(open_rows) == len(scores)
        bounds[open_rows] = _lower_bounds(scores if whole else scores[open_rows], k)
    row, column = _at_least(scores, np.maximum(bounds, np.finfo(bounds.dtype).min))
    counts = np.bincount(row, minlength=len(queries))
    entered = np.flatnonzero(counts)
    if not len(entered):
        return
    if counts.max() > max(64, 8 * k):  # many equal scores: leave the first k of each row
        in_order = np.argsort(gallery)
        columns = in_order[top_candidates(np.ascontiguousarray(scores[entered][:, in_order]), k)]
        new, items = np.take_along_axis(scores[entered], columns, axis=1), gallery[columns]
    else:
        new = np.full((len(entered), counts.max()), -np.inf, lists.scores.dtype)
        items = np.full(new.shape, -1, np.int64)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        line = np.searchsorted(entered, row)
        new[line, place], items[line, place] = scores[row, column], gallery[column]
    queries = queries[entered]
    places = np.concatenate([lists.places[queries], items], axis=1)
    together = np.concatenate([lists.scores[queries], new], axis=1)
    order = np.lexsort((places, -together), axis=1)[:, :k]
    best = np.take_along_axis(together, order, axis=1)
    lists.scores[queries] = best
    lists.places[queries] = np.where(np.isneginf(best), -1, np.take_along_axis(places, order, axis=1))


def _lower_bounds(scores: np.ndarray, k: int) -> np.ndarray:
    """Return numbers [Q] that are at most the k-th highest of each row of `scores` [Q,G].

    The k-th highest of the maxima of chunks is one; -infinity where there are too few.
    """
    queries, items = scores.shape
    chunks = min(4 * k, items)
    if chunks < k:
        return np.full(queries, -np.inf, scores.dtype)
    width = items // chunks
    if scores.flags.c_contiguous:
        maxima = scores[:, : chunks * width].reshape(queries, width, chunks).max(axis=1)
    else:
        maxima = scores.T[: chunks * width].reshape(width, chunks, queries).max(axis=0).T
    return np.partition(maxima, chunks - k, axis=1)[:, chunks - k]


def _at_least(scores: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row [n], ascending, and column of `scores` [Q,G] that reach the bound [Q] of their row."""
    if scores.flags.c_contiguous:
        place = np.flatnonzero(scores >= bounds[:, None])
        row = place // scores.shape[1]  # `//` is much faster in NumPy than `%`
        return row, place - row * scores.shape[1]
    place = np.flatnonzero(bounds <= scores.T)
    column = place // len(scores)
    row = place - column * len(scores)
    order = np.argsort(row.astype(np.min_scalar_type(len(scores))), kind="stable")  # 16 bits: radix sort
    return row[order], column[order]
