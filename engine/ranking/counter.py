"""Ranks are counted here: the one place that knows how a tie counts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

TIE_RULES: dict[str, str] = {
    "against": "rank = number of irrelevant items that score at least as high as the best relevant one",
    "favour": "rank = number of irrelevant items that score higher than the best relevant one",
    "average": "rank = mean of the ranks with ties counted against and in favour of the model",
}

# Whether an irrelevant item is ahead of a relevant one with the same score; of two answers the mean counts.
_EQUALS_ARE_AHEAD: dict[str, tuple[bool, ...]] = {
    "against": (True,),
    "favour": (False,),
    "average": (True, False),
}

Queries = np.ndarray | slice


class RankCounter:
    """The best relevant score of each of Q queries, and the number of irrelevant items ahead of it.

    Every relevant score of a query is shown before its first irrelevant one; in between, `best` [Q] may be
    replaced by its maximum over several processes, and at the end `counts` [answers,Q] by its sum. A query
    without a relevant item has -infinity as its best, and everything ahead of it. Scores have the type
    `dtype`. Raises ValueError for an unknown `tie_rule`, which is a key of `TIE_RULES`.
    """

    def __init__(self, queries: int, tie_rule: str = "against", dtype: DTypeLike = np.float32):
        if tie_rule not in TIE_RULES:
            raise ValueError(f"unknown tie rule {tie_rule!r}; expected one of {', '.join(TIE_RULES)}")
        self._equals_are_ahead = _EQUALS_ARE_AHEAD[tie_rule]
        self.best = np.full(queries, -np.inf, dtype)
        self.counts = np.zeros((len(self._equals_are_ahead), queries), np.int64)

    def see_relevant(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Take relevant `scores` [n], one each of `queries` [n], which may repeat."""
        np.maximum.at(self.best, queries, scores)

    def see_relevant_rows(self, queries: Queries, scores: np.ndarray) -> None:
        """Take `scores` [n,g], a row for each of `queries` [n], all different; -infinity: not relevant."""
        self.best[queries] = np.maximum(self.best[queries], scores.max(axis=1))

    def see_rivals(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Count irrelevant `scores` [n], one each of `queries` [n], which may repeat."""
        best = self.best[queries]
        for count, ahead in zip(self.counts, self._comparisons(), strict=True):
            count += np.bincount(queries[ahead(scores, best)], minlength=len(count))

    def see_rival_rows(self, queries: Queries, scores: np.ndarray, rivals: np.ndarray) -> None:
        """Count `scores` [n,g], a row for each of `queries` [n], all different.

        `rivals` [n,g]: whether each is of an irrelevant item, or of how many.
        """
        best = self.best[queries, None]
        for count, ahead in zip(self.counts, self._comparisons(), strict=True):
            count[queries] += (ahead(scores, best) * rivals).sum(axis=1, dtype=np.int32)

    def fewest_ahead(self, queries: Queries) -> np.ndarray:
        """Return how many are ahead of each of `queries` [n] so far, with ties in favour if they may be."""
        return self.counts[:, queries].min(axis=0)

    def ranks(self) -> np.ndarray:
        """Return the 0-based ranks [Q]: integers, unless the tie rule takes a mean."""
        return self.counts[0] if len(self.counts) == 1 else self.counts.mean(axis=0)

    def averaged(self, measure: Callable[[bool], np.ndarray]) -> np.ndarray:
        """Return the mean of `measure`, which is told whether an irrelevant item of equal score is ahead."""
        return np.mean([measure(equals_are_ahead) for equals_are_ahead in self._equals_are_ahead], axis=0)

    def _comparisons(self) -> list[np.ufunc]:
        return [np.greater_equal if ahead else np.greater for ahead in self._equals_are_ahead]
