"""Counts ranks; this is the only module that knows how a tie counts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

TIE_RULES: dict[str, str] = {
    "against": "rank = number of irrelevant items that score at least as high as the best relevant one",
    "favour": "rank = number of irrelevant items that score higher than the best relevant one",
    "average": "rank = mean of the ranks with ties counted against and in favour of the model",
}

# Whether an irrelevant item is ahead of a relevant one with the same score; the mean of two answers counts.
_EQUALS_ARE_AHEAD: dict[str, tuple[bool, ...]] = {
    "against": (True,),
    "favour": (False,),
    "average": (True, False),
}

Queries = np.ndarray | slice


class RankCounter:
    """The best relevant score of each of Q queries, and the number of irrelevant items (rivals) ahead of it.

    The counter must see all relevant scores of a query before its first rival. Several processes may share
    the scores: between the two, all-reduce `best` [Q] to the maximum, and at the end `counts` [answers,Q] to
    the sum. The best of a query without a relevant item is -infinity, so that all rivals are ahead. Scores
    have the type `dtype`. Raises ValueError for a `tie_rule` that is no key of `TIE_RULES`.
    """

    def __init__(self, queries: int, tie_rule: str = "against", dtype: DTypeLike = np.float32):
        if tie_rule not in TIE_RULES:
            raise ValueError(f"unknown tie rule {tie_rule!r}; expected one of {', '.join(TIE_RULES)}")
        self._equals_are_ahead = _EQUALS_ARE_AHEAD[tie_rule]
        self.best = np.full(queries, -np.inf, dtype)
        self.counts = np.zeros((len(self._equals_are_ahead), queries), np.int64)

    def see_relevant(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Update the best with relevant `scores` [n] of `queries` [n], which may repeat."""
        np.maximum.at(self.best, queries, scores)

    def see_relevant_rows(self, queries: Queries, scores: np.ndarray) -> None:
        """Update the best with `scores` [n,g], a row for each of the distinct `queries` [n].

        The score of an item that is not relevant is -infinity.
        """
        self.best[queries] = np.maximum(self.best[queries], scores.max(axis=1))

    def see_rivals(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Count the rivals ahead among irrelevant `scores` [n] of `queries` [n], which may repeat."""
        best = self.best[queries]
        for count, ahead in zip(self.counts, self._comparisons(), strict=True):
            count += np.bincount(queries[ahead(scores, best)], minlength=len(count))

    def see_rival_rows(self, queries: Queries, scores: np.ndarray, rivals: np.ndarray) -> None:
        """Count the rivals ahead among `scores` [n,g], a row for each of the distinct `queries` [n].

        `rivals` [n,g] tells whether a score is of a rival, or of how many rivals.
        """
        best = self.best[queries, None]
        for count, ahead in zip(self.counts, self._comparisons(), strict=True):
            count[queries] += (ahead(scores, best) * rivals).sum(axis=1, dtype=np.int32)

    def fewest_ahead(self, queries: Queries) -> np.ndarray:
        """Return how many rivals are ahead of each of `queries` [n] so far, by the lowest answer to ties."""
        return self.counts[:, queries].min(axis=0)

    def ranks(self) -> np.ndarray:
        """Return the 0-based ranks [Q]: int64, or float64 if the tie rule takes a mean."""
        return self.counts[0] if len(self.counts) == 1 else self.counts.mean(axis=0)

    def averaged(self, measure: Callable[[bool], np.ndarray]) -> np.ndarray:
        """Return the mean of `measure(equals_are_ahead)` over the answers of the tie rule."""
        return np.mean([measure(equals_are_ahead) for equals_are_ahead in self._equals_are_ahead], axis=0)

    def _comparisons(self) -> list[np.ufunc]:
        return [np.greater_equal if ahead else np.greater for ahead in self._equals_are_ahead]
