"""The short lists of a dual encoder: the items with the highest scores for each image and each caption.

The lists are filled tile by tile, from the very scores that the dual encoder's ranks are counted from. Of a
tile of coarse products (`screen`) no score is made: the pairs that may be listed wait, with bounds of their
scores. Each query has a bar, the k-th highest lower bound that it has seen of different items, and a pair
whose upper bound is below it is not listed. The bars rise tile by tile, so that few pairs are left to be
multiplied exactly when all tiles are done.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Protocol

import numpy as np

from datasets.pairs import top_candidates
from datasets.prefetch import prefetched
from engine.ranking.screen import TileScores, lower_bounds
from engine.runtime import choose_threads

ScoresOf = Callable[[np.ndarray, np.ndarray], np.ndarray]  # images and captions [n] -> their scores [n]
_SETTLED = 1 << 13  # pairs that are settled together
_WAITING = 1 << 20  # pairs from which on those below the bars are dropped now and then


class ScoreSink(Protocol):
    """A receiver of all scores, tile by tile."""

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Receive the `scores` [I,T] of the images and captions at these places."""


class ListSink(ScoreSink, Protocol):
    """A receiver of the scores that lead for each query, which whole tiles or screened ones may fill.

    Several threads may call `screen` and what it returns.
    """

    def screen(self, images: np.ndarray, captions: np.ndarray, scores: TileScores) -> Callable[[], None]:
        """Choose what may lead by `scores` [I,T], which may be coarse; what is returned then receives it.

        Raises `TooManyOpenError` if finer scores are needed.
        """

    def settle(self, scores_of: ScoresOf) -> None:
        """Make the scores that are missing after all tiles were screened."""


@dataclass
class _Lists:
    """The best items so far of each query: `places` int64 [Q,k] in the gallery, -1 for none, and `scores`.

    `bars` [Q] are what a score must at least be to be listed; they only rise. `lows` [Q,k] are the highest
    lower bounds of pairs that wait. `waiting` holds these pairs: queries, those of one together, items, and
    upper bounds of their scores; `left` of them were not below the bars when this was last looked at.
    """

    places: np.ndarray
    scores: np.ndarray
    bars: np.ndarray
    lows: np.ndarray
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    left: int = 0

    @staticmethod
    def empty(queries: int, k: int) -> "_Lists":
        """Return lists without an item."""
        places, scores = np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)
        return _Lists(places, scores, np.full(queries, -np.inf, np.float32), scores.copy(), [])

    @property
    def k(self) -> int:
        """Return the length of the lists."""
        return self.places.shape[1]

    def wait(self, queries: np.ndarray, items: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Keep pairs of `queries` [n], those of one together, and `items` [n], with two bounds of scores."""
        if not len(queries):
            return
        entered, new = _in_rows(queries, low)
        together = np.concatenate([self.lows[entered], new], axis=1)
        self.lows[entered] = lows = np.partition(together, -self.k, axis=1)[:, -self.k :]
        self.bars[entered] = np.maximum(self.bars[entered], lows[:, 0])
        self.waiting.append((queries, items, high))
        if sum(len(each[0]) for each in self.waiting) > max(_WAITING, 2 * self.left):
            self.waiting = [self._take_waiting()]
            self.left = len(self.waiting[0][0])

    def settle(self, scores_of: ScoresOf) -> None:
        """List the pairs that wait by their scores, which `scores_of` makes from queries and items [n]."""
        queries, items, _ = self._take_waiting() if self.waiting else (np.empty(0, int),) * 3
        order = np.argsort(queries, kind="stable")
        queries, items = queries[order], items[order]

        def list_them(part: slice) -> None:
            self.enter(queries[part], items[part], scores_of(queries[part], items[part]))

        for _ in prefetched(list_them, _parts_of_queries(queries), choose_threads()):
            pass

    def _take_waiting(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs that may still be listed; none waits any more."""
        left = []
        for each in self.waiting:
            which = np.flatnonzero(each[2] >= self.bars[each[0]])
            left.append(tuple(column[which] for column in each))
        self.waiting = []
        return tuple(np.concatenate(columns) for columns in zip(*left, strict=True))

    def enter(self, queries: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """List pairs of `queries` [n], those of one together, and `items` [n] by their `scores` [n]."""
        entered, new = _in_rows(queries, scores)
        self.enter_rows(entered, _in_rows(queries, items, -1)[1], new)

    def enter_rows(self, queries: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """List `items` [Q,n] of distinct `queries` [Q] by their `scores` [Q,n]; -infinity is no item."""
        places = np.concatenate([self.places[queries], items], axis=1)
        together = np.concatenate([self.scores[queries], scores], axis=1)
        order = np.lexsort((places, -together), axis=1)[:, : self.k]
        best = np.take_along_axis(together, order, axis=1)
        self.scores[queries] = best
        self.bars[queries] = np.maximum(self.bars[queries], best[:, -1])
        self.places[queries] = np.where(np.isneginf(best), -1, np.take_along_axis(places, order, axis=1))


class ShortLists:
    """A `ListSink` that keeps the `k` best captions of each image and the `k` best images of each caption.

    Only images and captions with equal `image_fold` [images] and `caption_fold` [captions] compete. Captions
    with equal `sentence_ids` [captions] say the same; on the lists of images, the first of a fold stands for
    all. Items of equal score are listed in the order of the split. Without `of_captions`, captions have no
    lists.
    """

    def __init__(
        self,
        k: int,
        image_fold: np.ndarray,
        caption_fold: np.ndarray,
        sentence_ids: np.ndarray,
        of_captions: bool = True,
    ) -> None:
        self._folds = image_fold, caption_fold
        of_sentence = np.unique(np.stack([caption_fold, sentence_ids]), axis=1, return_index=True)[1]
        self._listed = np.isin(np.arange(len(caption_fold)), of_sentence)
        self._of_image = _Lists.empty(len(image_fold), min(k, len(of_sentence)))
        self._of_caption = _Lists.empty(len(caption_fold), min(k, len(image_fold)) if of_captions else 0)
        self._lock = Lock()

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
        with self._lock:
            if listed.all():
                _merge(self._of_image, images, captions, scores)
            else:
                _merge(self._of_image, images, captions[listed], scores[:, listed])
            _merge(self._of_caption, captions, images, scores.T)

    def screen(self, images: np.ndarray, captions: np.ndarray, scores: TileScores) -> Callable[[], None]:
        """Choose what may be listed by `scores` [I,T], as `ListSink` says."""
        if scores.exact is not None:
            return lambda: self.write(images, captions, scores.exact)
        found = list(self._chosen(images, captions, scores))

        def wait() -> None:
            with self._lock:
                for lists, *pairs in found:
                    lists.wait(*pairs)

        return wait

    def settle(self, scores_of: ScoresOf) -> None:
        """Make the scores of the pairs that may be listed, and list them."""
        self._of_image.settle(scores_of)
        self._of_caption.settle(lambda captions, images: scores_of(images, captions))

    def _chosen(self, images: np.ndarray, captions: np.ndarray, scores: TileScores) -> Iterator[tuple]:
        """Yield lists, queries and items [n], and two bounds of their scores, fold by fold."""
        rows, columns = self._folds[0][images], self._folds[1][captions]
        for fold in np.intersect1d(rows, columns):
            row, column = np.flatnonzero(rows == fold), np.flatnonzero(columns == fold)
            listed = column[self._listed[captions[column]]]
            for side, lists, part in ((0, self._of_image, listed), (1, self._of_caption, column)):
                sides = images[row], captions[part]
                which = [
                    None if len(part) == size else part
                    for part, size in zip((row, part), (len(images), len(captions)), strict=True)
                ]
                yield lists, *_may_be_listed(lists, side, sides, scores.of_items(*which))


def _may_be_listed(
    lists: _Lists, side: int, sides: tuple[np.ndarray, np.ndarray], scores: TileScores
) -> tuple[np.ndarray, ...]:
    """Return queries and items [n] that may be listed, and two bounds of their scores.

    `sides` are the places of the rows and columns of `scores`; the queries are on side `side`.
    """
    queries, items = sides[side], sides[1 - side]
    if not len(items) or not lists.k:
        return (np.empty(0, int),) * 4
    bars = lists.bars[queries]
    if np.isneginf(bars).any():
        bars = np.maximum(bars, scores.kth_at_least(side, lists.k))
    query, item, low, high = scores.may_reach(side, bars, max(64, 4 * lists.k) * len(queries))
    return queries[query], items[item], low, high


def _in_rows(
    queries: np.ndarray, values: np.ndarray, nothing: float = -np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct queries [q] of `queries` [n], those of one together, and rows [q,m] of `values`.

    `nothing` fills the rows.
    """
    starts = np.flatnonzero(np.diff(queries, prepend=-1))
    counts = np.diff(starts, append=len(queries))
    rows = np.full((len(starts), counts.max(initial=0)), nothing, values.dtype)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = values
    return queries[starts], rows


def _parts_of_queries(queries: np.ndarray) -> list[slice]:
    """Cut ascending `queries` [n] into parts of about `_SETTLED` of them; one query is in one part."""
    cuts = np.searchsorted(queries, queries[::_SETTLED])
    return [slice(*ends) for ends in pairwise(np.unique([*cuts, len(queries)]))]


def _merge(lists: _Lists, queries: np.ndarray, gallery: np.ndarray, scores: np.ndarray) -> None:
    """Merge the `scores` [Q,G] of `queries` with `gallery`, places of items, into the lists."""
    k = lists.k
    if not len(gallery) or not k:
        return
    bounds = lists.bars[queries]
    open_rows = np.flatnonzero(np.isneginf(bounds))
    if len(open_rows):
        whole = len(open_rows) == len(scores)
        bounds[open_rows] = lower_bounds(scores if whole else scores[open_rows], k)
    row, column = _at_least(scores, np.maximum(bounds, np.finfo(bounds.dtype).min))
    counts = np.bincount(row, minlength=len(queries))
    entered = np.flatnonzero(counts)
    if not len(entered):
        return
    if counts.max() > max(64, 8 * k):  # many equal scores: leave the first k of each row
        in_order = np.argsort(gallery)
        columns = in_order[top_candidates(np.ascontiguousarray(scores[entered][:, in_order]), k)]
        lists.enter_rows(
            queries[entered], gallery[columns], np.take_along_axis(scores[entered], columns, axis=1)
        )
    else:
        lists.enter(queries[row], gallery[column], scores[row, column])


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
