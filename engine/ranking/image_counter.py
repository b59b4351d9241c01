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

DEEPEST = 1000  # a higher rank is known to be at least this, no more


class ImageCounter:
    """The relevant scores of each of Q queries, those of its R leading rivals, and its rank so far.

    `query_files` [Q] and `gallery_files` [G] are equal where a query and an item are the same picture: such
    pairs do not count. `relevant` [Q] is R of each query, without them. Call `add_relevant` for all relevant
    scores of a query, then `close_relevant`, then `add_rivals`.
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

    def add_relevant(self, places: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """Store `scores` [n] of relevant pairs: queries at `places` [n], gallery `items` [n]; each once."""
        others = self._others(places, items)
        others = others[np.argsort(places[others], kind="stable")]
        places, scores = places[others], scores[others]
        number = np.arange(len(places)) - np.searchsorted(
            places, places
        )  # index among those of the same query
        self._scores[places, self._filled[places] + number] = scores
        self._filled += np.bincount(places, minlength=len(self._filled))

    def close_relevant(self, places: np.ndarray) -> None:
        """Set the first thresholds of the queries at `places`, whose relevant scores are complete."""
        places = places[self._relevant[places] > 0]
        scores = self._scores[places]
        self._counter.see_relevant_rows(places, scores)
        lowest = np.where(np.isinf(scores), np.float32(np.inf), scores).min(axis=1, initial=np.inf)
        self._leading_threshold[places] = np.nextafter(lowest, np.float32(-np.inf))

    def others(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return which `queries` [Q] and gallery `items` [G] are different pictures: bool [Q,G]."""
        return self._query_files[queries, None] != self._gallery_files[items]

    def most_relevant(self, places: np.ndarray) -> int:
        """Return the largest R of the queries at `places`."""
        return int(self._relevant[places].max(initial=0))

    def thresholds(self, places: np.ndarray, passed: np.ndarray | float = -np.inf) -> np.ndarray:
        """Return what a rival's score must exceed to change anything for the queries at `places` [q].

        A rival counts for the rank if it scores at least the best relevant score, unless enough are ahead.
        `passed` [q] are numbers that R rivals of each query are known to exceed.
        """
        enough = np.maximum(self._relevant[places], DEEPEST)
        beyond = self._counter.fewest_ahead(places) >= enough
        below_best = np.nextafter(self._counter.best[places], np.float32(-np.inf))
        leading = np.maximum(self._leading_threshold[places], np.float32(passed))
        return np.where(beyond, np.float32(np.inf), np.minimum(below_best, leading))

    def add_rivals(self, places: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """Count the rivals that are ahead, and keep the leading ones.

        The pairs are queries at `places` [n], ascending, and gallery `items` [n]. Each pair that exceeds the
        threshold of its query must come once; others are ignored.
        """
        counted = self._others(places, items)
        counted = counted[scores[counted] > self.thresholds(places[counted])]
        places, scores = places[counted], scores[counted]
        if not len(places):
            return
        self._counter.see_rivals(places, scores)
        leads = scores > self._leading_threshold[places]
        if leads.any():
            self._keep_leading(places[leads], scores[leads])

    def _others(self, places: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the indices of the pairs, places [n] and items [n], that are two different pictures."""
        return np.flatnonzero(self._query_files[places] != self._gallery_files[items])

    def _keep_leading(self, queries: np.ndarray, values: np.ndarray) -> None:
        """Merge scores `values` [n] of the queries at `queries` [n], ascending, into the leading ones."""
        places, first, counts = np.unique(queries, return_index=True, return_counts=True)
        width = self._leading.shape[1]
        scores = np.full((len(places), counts.max()), -np.inf, np.float32)
        number = np.arange(len(queries)) - np.repeat(first, counts)  # index among those of the same query
        scores[np.repeat(np.arange(len(places)), counts), number] = values
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
