"""Keeps each query's rank so far, its relevant scores, and the scores of its leading rivals.

The idea: of a query with R relevant items, the precisions at R need no irrelevant items (rivals) but the R
with the highest scores, the leading rivals, and the rank needs only the number of rivals ahead of the best
relevant item. So each query has a threshold, which a rival's score must exceed to change anything. The
threshold starts just below the lowest relevant score and rises tile by tile with the leading rivals, so that
soon hardly any score exceeds it.
"""

import numpy as np

from engine.ranking.counter import RankCounter
from engine.ranking.precisions import precisions_at_r
from engine.ranking.tiles import TileSide

DEEPEST = 1000  # a higher rank is known to be at least this, no more


def _same_group(queries: TileSide, items: TileSide) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column [n] of all pairs of a query and an item of its group, row by row."""
    order = np.argsort(items.groups, kind="stable")
    low, high = (np.searchsorted(items.groups[order], queries.groups, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(low)), high - low)
    first = np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
    return row, order[first + np.arange(len(row))]


def _above(scores: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row [n], ascending, column and value of `scores` [Q,G] above the threshold [Q] of their row."""
    if scores.flags.c_contiguous:
        place = np.flatnonzero(scores > thresholds[:, None])
        row = place // scores.shape[1]
        return row, place - row * scores.shape[1], scores.ravel()[place]
    upright = np.ascontiguousarray(scores.T)  # [G,Q], without a copy if `scores` is a transpose
    place = np.flatnonzero(upright > thresholds)
    column = place // len(scores)  # `//` is much faster in NumPy than `%`
    row = place - column * len(scores)
    order = np.argsort(row.astype(np.min_scalar_type(len(scores))), kind="stable")  # 16 bits: radix sort
    return row[order], column[order], upright.ravel()[place[order]]


class ImageCounter:
    """The relevant scores of each of Q queries, those of its R leading rivals, and its rank so far.

    `query_files` [Q] and `gallery_files` [G] are equal where a query and an item are the same picture: such
    pairs do not count. `relevant` [Q] is R of each query, without them. Call `add_relevant` for all relevant
    scores of a query, then `close_relevant`, then `add_rivals` or `add_pairs`.
    """

    def __init__(
        self, query_files: np.ndarray, gallery_files: np.ndarray, relevant: np.ndarray, tie_rule: str
    ) -> None:
        shape = len(relevant), relevant.max()
        self._query_files, self._gallery_files = query_files, gallery_files
        self._relevant = relevant
        self._counter = RankCounter(len(relevant), tie_rule)
        self._counter.best[relevant == 0] = np.inf  # a query without a relevant item counts nothing
        self._scores = np.full(shape, -np.inf, np.float32)
        self._filled = np.zeros(len(relevant), np.int64)
        self._leading = np.full(shape, -np.inf, np.float32)  # descending
        # What a rival's score must exceed to be among the leading ones; infinity before `close_relevant`.
        self._leading_threshold = np.full(len(relevant), np.inf, np.float32)

    def add_relevant(self, queries: TileSide, items: TileSide, scores: np.ndarray) -> None:
        """Store the relevant ones among `scores` [q,g]; each pair must come once."""
        row, column = _same_group(queries, items)
        others = self._others(queries.places[row], items.places[column])
        row, column = row[others], column[others]
        place = queries.places[row]
        number = np.arange(len(row)) - np.searchsorted(row, row)  # index among those of the same row
        self._scores[place, self._filled[place] + number] = scores[row, column]
        self._filled += np.bincount(place, minlength=len(self._filled))

    def close_relevant(self, places: np.ndarray) -> None:
        """Set the first thresholds of the queries at `places`, whose relevant scores are complete."""
        places = places[self._relevant[places] > 0]
        scores = self._scores[places]
        self._counter.see_relevant_rows(places, scores)
        lowest = np.where(np.isinf(scores), np.float32(np.inf), scores).min(axis=1, initial=np.inf)
        self._leading_threshold[places] = np.nextafter(lowest, np.float32(-np.inf))

    def thresholds(self, places: np.ndarray) -> np.ndarray:
        """Return what a rival's score must exceed to change anything for the queries at `places`.

        A rival counts for the rank if it scores at least the best relevant score, unless enough are ahead.
        """
        enough = np.maximum(self._relevant[places], DEEPEST)
        beyond = self._counter.fewest_ahead(places) >= enough
        below_best = np.nextafter(self._counter.best[places], np.float32(-np.inf))
        return np.where(beyond, np.float32(np.inf), np.minimum(below_best, self._leading_threshold[places]))

    def add_rivals(self, queries: TileSide, items: TileSide, scores: np.ndarray, related: bool) -> None:
        """Count the rivals among `scores` [q,g] that are ahead, and keep the leading ones.

        `related` tells whether there may be relevant pairs, which are then left out.
        """
        if related:
            scores = np.array(scores)
            scores[_same_group(queries, items)] = -np.inf
        row, column, values = _above(scores, self.thresholds(queries.places))
        self.add_pairs(queries.places, row, items.places[column], values)

    def add_pairs(self, places: np.ndarray, row: np.ndarray, items: np.ndarray, values: np.ndarray) -> None:
        """Count rivals with scores `values` [n] above the thresholds of the queries at `places[row]`.

        `row` [n] is ascending, and `items` [n] are the rivals' places in the gallery. Rivals that lead are
        kept.
        """
        others = self._others(places[row], items)
        row, values = row[others], values[others]
        if not len(row):
            return
        place = places[row]
        self._counter.see_rivals(place, values)
        leads = values > self._leading_threshold[place]
        if leads.any():
            self._keep_leading(places, row[leads], values[leads])

    def _others(self, places: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the indices of the pairs, places [n] and items [n], that are two different pictures."""
        return np.flatnonzero(self._query_files[places] != self._gallery_files[items])

    def _keep_leading(self, places: np.ndarray, row: np.ndarray, values: np.ndarray) -> None:
        """Merge scores `values` [n] of the queries at `places[row]`, row by row, into the leading ones."""
        rows, first, counts = np.unique(row, return_index=True, return_counts=True)
        places, width = places[rows], self._leading.shape[1]
        scores = np.full((len(rows), counts.max()), -np.inf, np.float32)
        number = np.arange(len(row)) - np.repeat(first, counts)  # index among those of the same row
        scores[np.repeat(np.arange(len(rows)), counts), number] = values
        merged = np.concatenate([self._leading[places], scores], axis=1)
        merged = np.partition(merged, -width, axis=1)[:, -width:]
        merged[:] = np.sort(merged, axis=1)[:, ::-1]
        self._leading[places] = merged
        last = merged[np.arange(len(places)), self._relevant[places] - 1]  # the R-th
        # With R rivals above the best relevant score, both precisions are 0, whatever follows.
        self._leading_threshold[places] = np.where(
            last > self._counter.best[places], np.inf, np.maximum(self._leading_threshold[places], last)
        )

    def result(self, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return rank, average precision at R and R-precision of the `chosen` queries, places [n].

        Then come the ranks if ties favour the model, and if they count against it.
        """
        pieces = np.array_split(chosen, max(1, len(chosen) * self._scores.shape[1] >> 20))
        found = [
            self._counter.averaged(lambda rivals_first, of=piece: self._precisions(of, rivals_first))
            for piece in pieces
        ]
        tied = self._counter.tied()
        precisions = np.concatenate(found, axis=1)
        return self._counter.ranks()[chosen], *precisions, tied.favour[chosen], tied.against[chosen]

    def _precisions(self, places: np.ndarray, rivals_first: bool) -> np.ndarray:
        """Return average precision at R and R-precision [2,q]; `rivals_first` puts rivals first in a tie."""
        sides = self._leading[places], self._scores[places]
        return precisions_at_r(*sides, self._relevant[places], rivals_first)
