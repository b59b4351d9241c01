"""Counts the rivals ahead of each query's relevant items, as far as ranks and precisions need it.

The idea: of a query with R relevant items, the i-th best of them has the place i + c, where c is the number
of irrelevant items (rivals) ahead of it. The precisions at R need the places up to R, and the rank needs c of
the best one. So a rival matters only if its score reaches the lowest relevant score that may still have a
place up to R. As rivals are counted, this bar rises tile by tile, so that soon hardly any rival reaches it.
All that counts of a rival is where it stands among the relevant items: no score of one is kept.
"""

from collections.abc import Callable

import numpy as np

from engine.ranking.counter import TiedRanks, mean_over_ties

DEEPEST = 1000  # a rank is counted up to here, or up to R
_FAVOUR, _AGAINST = range(2)  # rivals that score higher than a relevant item, and those as high, too


class ImageCounter:
    """Counts the rivals of Q queries.

    `scores` [Q,W] are those of each query's relevant items, -infinity after the last, and `relevant` [Q] is
    their number R. A query without a relevant item counts nothing.
    """

    def __init__(self, scores: np.ndarray, relevant: np.ndarray) -> None:
        self._scores, self._relevant = -np.sort(-scores, axis=1), relevant
        # How many rivals have the n-th relevant item as the best of those that they are ahead of, [2,Q,W].
        self._ahead = np.zeros((2, *scores.shape), np.int32)
        self._open = relevant.copy()  # so many relevant items, the best ones, may still matter
        self._update(np.arange(len(relevant)))

    @property
    def most_relevant(self) -> int:
        """Return the largest R."""
        return self._scores.shape[1]

    def open_items(
        self, places: np.ndarray, leading: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how many relevant items still matter to the queries at `places` [n], the best ones.

        Then comes what a rival's score must at least be to matter, float32 [n]. `leading` [n] are scores that
        R rivals are known to exceed.
        """
        count = self._open[places]
        if leading is not None:
            ahead = self._first_behind(places, count, leading, np.less_equal)
            count = np.minimum(count, np.maximum(ahead, 1))
        lowest = self._scores[places, np.maximum(count, 1) - 1]
        return count, np.where(count > 0, lowest, np.float32(np.inf))

    def best_behind(
        self,
        places: np.ndarray,
        count: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        settle: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best relevant items that rivals of the queries at `places` [n] are ahead of.

        They are given by their index [n] among the `count` [n] best relevant items, or by this count: first
        if a rival of the same score is not ahead, then if it is. The rivals' scores are between `low` and
        `high` [n], or equal to both. `settle` is called where that leaves the index open, with the indices
        [m] of rivals and bars [m], and returns scores [m] that compare with the bars as true scores do, and
        true scores where a bar is NaN.
        """
        favour = self._first_behind(places, count, low, np.less)
        against = self._first_behind(places, count, high, np.less_equal)
        left = np.flatnonzero((against < favour) & (low < high))
        if not len(left):
            return favour, against
        first, last = against[left], favour[left]
        bars = self._scores[places[left], first]
        bars[last - first > 1] = np.nan  # several relevant scores are between the two bounds
        scores = settle(left, bars)
        favour[left] = np.where(scores > bars, first, last)
        against[left] = np.where(scores >= bars, first, last)
        several = np.flatnonzero(np.isnan(bars))
        left, scores = left[several], scores[several]
        favour[left] = self._first_behind(places[left], count[left], scores, np.less)
        against[left] = self._first_behind(places[left], count[left], scores, np.less_equal)
        return favour, against

    def _first_behind(
        self, places: np.ndarray, count: np.ndarray, scores: np.ndarray, is_behind: np.ufunc
    ) -> np.ndarray:
        """Return the index [n] of the first of `count` relevant items whose score `is_behind`, or `count`."""
        low, high = np.zeros(len(places), np.int64), count.copy()
        while len(left := np.flatnonzero(low < high)):
            middle = (low[left] + high[left]) // 2
            behind = is_behind(self._scores[places[left], middle], scores[left])
            high[left[behind]] = middle[behind]
            low[left[~behind]] = middle[~behind] + 1
        return low

    def add(
        self,
        queries: np.ndarray,
        count: np.ndarray,
        places: np.ndarray,
        favour: np.ndarray,
        against: np.ndarray,
    ) -> None:
        """Count rivals of the queries at `places` [n]; `favour` and `against` [n] come from `best_behind`.

        Of the distinct `queries` [m], which have all of them, no more than `count` [m] relevant items matter
        any more (`open_items`).
        """
        self._open[queries] = np.minimum(self._open[queries], count)
        for ahead, first in zip(self._ahead, (favour, against), strict=True):
            counts = np.flatnonzero(first < self._open[places])
            # NumPy adds at flat indices several times as fast, if the types are the same.
            np.add.at(ahead.reshape(-1), places[counts] * ahead.shape[1] + first[counts], np.int32(1))
        self._update(np.unique(places))

    def _update(self, places: np.ndarray) -> None:
        """Find what still matters to the queries at `places` [n], by the answer to ties with fewer rivals."""
        rivals = self._ahead[_FAVOUR, places].cumsum(axis=1)
        relevant = self._relevant[places]
        matter = np.arange(1, rivals.shape[1] + 1) + rivals <= relevant[:, None]  # [n,W], the best ones
        best_matters = (rivals[:, 0] < self._deepest(places)) & (relevant > 0)
        count = np.maximum(matter.sum(axis=1), best_matters)
        self._open[places] = np.minimum(self._open[places], count)

    def _deepest(self, places: np.ndarray) -> np.ndarray:
        return np.maximum(self._relevant[places], DEEPEST)

    def result(self, places: np.ndarray, tie_rule: str) -> tuple[np.ndarray, ...]:
        """Return rank, average precision at R and R-precision of the queries at `places` [n].

        Then come the ranks if ties favour the model, and if they count against it.
        """
        pieces = np.array_split(places, max(1, len(places) * self._scores.shape[1] >> 20))
        precisions = [mean_over_ties(tie_rule, self._precisions, piece) for piece in pieces]
        favour, against = np.minimum(self._ahead[:, places, 0], self._deepest(places)).astype(np.int64)
        ranks = TiedRanks(favour, against).by(tie_rule)
        return ranks, *np.concatenate(precisions, axis=1), favour, against

    def _precisions(self, rivals_first: bool, places: np.ndarray) -> np.ndarray:
        """Return average precision at R and R-precision [2,n] by an answer to ties."""
        rivals = self._ahead[_AGAINST if rivals_first else _FAVOUR, places].cumsum(axis=1)
        number, relevant = np.arange(1, rivals.shape[1] + 1), self._relevant[places]
        place = number + rivals
        hits = (place <= relevant[:, None]) & (number <= self._open[places, None])
        average = (hits * (number / place)).sum(axis=1) / relevant
        return np.stack([average, hits.sum(axis=1) / relevant])
