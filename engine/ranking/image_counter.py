"""What is known of each query while pictures are ranked: its rank so far, and what precision at R needs.

Precision at R compares the relevant scores with the R highest irrelevant ones. The latter are kept up to date
tile by tile; after the first tiles few scores are high enough to change them.
"""

import numpy as np

from engine.ranking.counter import RankCounter
from engine.ranking.tiles import TileSide

DEEPEST = 1000  # ranks beyond are known to be beyond


def _same_group(queries: TileSide, items: TileSide) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column [n] of all pairs of one group, row by row."""
    order = np.argsort(items.groups, kind="stable")
    low, high = (np.searchsorted(items.groups[order], queries.groups, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(low)), high - low)
    first = np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
    return row, order[first + np.arange(len(row))]


def _above(scores: np.ndarray, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row [n], rising, and value [n] of the `scores` [Q,G] above the bar [Q] of their row."""
    if scores.flags.c_contiguous:
        place = np.flatnonzero(scores > bars[:, None])
        return place // scores.shape[1], scores.ravel()[place]
    upright = np.ascontiguousarray(scores.T)  # [G,Q], without a copy where it was turned
    place = np.flatnonzero(upright > bars)
    row = place - place // len(scores) * len(scores)  # NumPy divides much faster than it takes the rest
    order = np.argsort(row.astype(np.min_scalar_type(len(scores))), kind="stable")  # 16 bits: a radix sort
    return row[order], upright.ravel()[place[order]]


class ImageCounter:
    """The relevant scores of each of Q queries, the R highest irrelevant ones, and the rank so far.

    `rows` are the queries' own places in the gallery, if they have any. `relevant` [Q]: R of each. A query's
    relevant scores are shown and closed before its irrelevant ones are shown.
    """

    def __init__(self, rows: np.ndarray | None, relevant: np.ndarray, tie_rule: str) -> None:
        shape = len(relevant), relevant.max()
        self._rows = rows
        self._relevant = relevant
        self._counter = RankCounter(len(relevant), tie_rule)
        self._counter.best[relevant == 0] = np.inf  # nothing is ahead of what is not there
        self._scores = np.full(shape, -np.inf, np.float32)
        self._filled = np.zeros(len(relevant), np.int64)
        self._leading = np.full(shape, -np.inf, np.float32)  # descending
        self._bar = np.full(len(relevant), np.inf, np.float32)  # to be among the leading

    def add_relevant(self, queries: TileSide, items: TileSide, scores: np.ndarray) -> None:
        """Take the relevant ones of `scores` [q,g]; each pair comes once."""
        row, column = _same_group(queries, items)
        if self._rows is not None:
            others = self._rows[queries.places[row]] != items.places[column]
            row, column = row[others], column[others]
        place = queries.places[row]
        number = np.arange(len(row)) - np.searchsorted(row, row)  # of this row's, in order
        self._scores[place, self._filled[place] + number] = scores[row, column]
        self._filled += np.bincount(place, minlength=len(self._filled))

    def close_relevant(self, places: np.ndarray) -> None:
        """Derive from the relevant scores of the queries at `places` what a rival must exceed to matter."""
        places = places[self._relevant[places] > 0]
        scores = self._scores[places]
        self._counter.see_relevant_rows(places, scores)
        lowest = np.where(np.isinf(scores), np.float32(np.inf), scores).min(axis=1, initial=np.inf)
        self._bar[places] = np.nextafter(lowest, np.float32(-np.inf))

    def bars(self, places: np.ndarray) -> np.ndarray:
        """Return what an irrelevant score must exceed to change anything for the queries at `places`."""
        enough = np.maximum(self._relevant[places], DEEPEST)
        beyond = self._counter.fewest_ahead(places) >= enough
        below_best = np.nextafter(self._counter.best[places], np.float32(-np.inf))
        return np.where(beyond, np.float32(np.inf), np.minimum(below_best, self._bar[places]))

    def add_rivals(self, queries: TileSide, items: TileSide, scores: np.ndarray, related: bool) -> None:
        """Count the irrelevant ones of `scores` [q,g] that are ahead, and keep the leading ones."""
        if related:
            scores = np.array(scores)
            scores[_same_group(queries, items)] = -np.inf
        self.add_pairs(queries.places, *_above(scores, self.bars(queries.places)))

    def add_pairs(self, places: np.ndarray, row: np.ndarray, values: np.ndarray) -> None:
        """Do so with irrelevant `values` [n] above the bars of the queries at `places[row]`, row by row."""
        if not len(row):
            return
        place = places[row]
        self._counter.see_rivals(place, values)
        leads = values > self._bar[place]
        if leads.any():
            self._keep_leading(places, row[leads], values[leads])

    def _keep_leading(self, places: np.ndarray, row: np.ndarray, values: np.ndarray) -> None:
        """Merge `values` [n] of the queries at `places[row]`, row by row, into the leading ones."""
        rows, first, counts = np.unique(row, return_index=True, return_counts=True)
        places, width = places[rows], self._leading.shape[1]
        scores = np.full((len(rows), counts.max()), -np.inf, np.float32)
        number = np.arange(len(row)) - np.repeat(first, counts)  # of this row's, in order
        scores[np.repeat(np.arange(len(rows)), counts), number] = values
        merged = np.concatenate([self._leading[places], scores], axis=1)
        merged = np.partition(merged, -width, axis=1)[:, -width:]
        merged[:] = np.sort(merged, axis=1)[:, ::-1]
        self._leading[places] = merged
        last = merged[np.arange(len(places)), self._relevant[places] - 1]  # the R-th
        self._bar[places] = np.where(
            last > self._counter.best[places], np.inf, np.maximum(self._bar[places], last)
        )

    def result(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rank, average precision at R and R-precision of the `chosen` queries."""
        pieces = np.array_split(chosen, max(1, len(chosen) * self._scores.shape[1] >> 20))
        found = [
            self._counter.averaged(lambda rivals_first, of=piece: self._precisions(of, rivals_first))
            for piece in pieces
        ]
        return self._counter.ranks()[chosen], *np.concatenate(found, axis=1)

    def _precisions(self, places: np.ndarray, rivals_first: bool) -> np.ndarray:
        """Return average precision at R and R-precision [2,q], with equal scores in that order."""
        sides = [self._leading[places], self._scores[places]]
        of_relevant = np.repeat([False, True], sides[0].shape[1])
        if not rivals_first:
            sides, of_relevant = sides[::-1], of_relevant[::-1]
        order = np.argsort(-np.concatenate(sides, axis=1), axis=1, kind="stable")[:, : sides[0].shape[1]]
        position = np.arange(1, order.shape[1] + 1)
        count = self._relevant[places, None]
        hits = of_relevant[order] & (position <= count)  # [q,R]
        precision = hits.cumsum(axis=1) / position
        return np.stack([(precision * hits).sum(axis=1), hits.sum(axis=1)]) / count[:, 0]
