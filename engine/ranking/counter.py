"""Counts ranks; this is the only module that knows how a tie counts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

TIE_RULES: dict[str, str] = {
    "against": "rank = number of irrelevant items that score at least as high as the best relevant one",
    "favour": "rank = number of irrelevant items that score higher than the best relevant one",
    "average": "rank = mean of the ranks with ties counted against and in favour of the model",
}

# Whether an irrelevant item is ahead of a relevant one with the same score; the mean of two answers counts.
_ANSWERS: dict[str, tuple[bool, ...]] = {
    "against": (True,),
    "favour": (False,),
    "average": (True, False),
}

# How a rival's score is compared with the best relevant one, for each answer.
_COMPARISONS = {True: np.greater_equal, False: np.greater}

Queries = np.ndarray | slice


@dataclass(frozen=True)
class TiedRanks:
    """The 0-based ranks [Q] if every tie favours the model, and if every tie counts against it."""

    favour: np.ndarray
    against: np.ndarray

    def by(self, tie_rule: str) -> np.ndarray:
        """Return the ranks [Q] by `tie_rule`: int64, or float64 if the rule takes a mean."""
        answers = [self.against if ahead else self.favour for ahead in _ANSWERS[tie_rule]]
        return answers[0].astype(np.int64) if len(answers) == 1 else np.mean(answers, axis=0)


class RankCounter:
    """The best relevant score of each of Q queries, and the number of irrelevant items (rivals) ahead of it.

    The counter must see all relevant scores of a query before its first rival. Several processes may share
    the scores: between the two, all-reduce `best` [Q] to the maximum, and at the end `counts` [2,Q] to the
    sum: rivals ahead if ties are counted against the model, and if they favour it. The best of a query
    without a relevant item is -infinity, so that all rivals are ahead. Scores have the type `dtype`. Raises
    ValueError for a `tie_rule` that is no key of `TIE_RULES`.
    """

    def __init__(self, queries: int, tie_rule: str = "against", dtype: DTypeLike = np.float32):
        if tie_rule not in TIE_RULES:
            raise ValueError(f"unknown tie rule {tie_rule!r}; expected one of {', '.join(TIE_RULES)}")
        self.tie_rule = tie_rule
        self.best = np.full(queries, -np.inf, dtype)
        self.counts = np.zeros((len(_COMPARISONS), queries), np.int64)

    def see_relevant(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Update the best with relevant `scores` [n] of `queries` [n], which may repeat."""
        np.maximum.at(self.best, queries, scores)

    def see_relevant_rows(self, queries: Queries, scores: np.ndarray) -> None:
        """Update the best with `scores` [n,g], a row for each of the distinct `queries` [n].

        The score of an item that is not relevant is -infinity.
        """
        self.best[queries] = np.maximum(self.best[queries], scores.max(axis=1))

    def add(self, queries: np.ndarray, ahead: np.ndarray) -> None:
        """Count rivals that are `ahead` [2,n] of distinct `queries` [n], by both answers to ties.

        The first answer is that rivals of an equal score are ahead.
        """
        self.counts[:, queries] += ahead

    def see_rivals(self, queries: np.ndarray, scores: np.ndarray) -> None:
        """Count the rivals ahead among irrelevant `scores` [n] of `queries` [n], which may repeat."""
        best = self.best[queries]
        for count, is_ahead in zip(self.counts, _COMPARISONS.values(), strict=True):
            count += np.bincount(queries[is_ahead(scores, best)], minlength=len(count))

    def see_rival_rows(self, queries: Queries, scores: np.ndarray, rivals: np.ndarray | None = None) -> None:
        """Count the rivals ahead among `scores` [n,g], a row for each of the distinct `queries` [n].

        `rivals` [n,g] tells whether a score is of a rival, or of how many rivals; None: each is of one.
        """
        best = self.best[queries, None]
        for count, is_ahead in zip(self.counts, _COMPARISONS.values(), strict=True):
            ahead = is_ahead(scores, best)
            if rivals is None:
                count[queries] += true_in_rows(ahead)
            else:
                count[queries] += (ahead * rivals).sum(axis=1, dtype=np.int32)

    def ranks(self, tie_rule: str = "") -> np.ndarray:
        """Return the 0-based ranks [Q] by `tie_rule` (default: the counter's own).

        They are int64, or float64 if the tie rule takes a mean.
        """
        return self.tied().by(tie_rule or self.tie_rule)

    def tied(self) -> TiedRanks:
        """Return the ranks [Q] under both answers to ties."""
        against, favour = self.counts
        return TiedRanks(favour, against)


def answers_of(tie_rule: str) -> tuple[bool, ...]:
    """Return whether rivals come first in a tie, for each answer whose mean the rule takes."""
    return _ANSWERS[tie_rule]


def mean_over_ties(tie_rule: str, measure: Callable[..., np.ndarray], *arguments: object) -> np.ndarray:
    """Return the mean of `measure(rivals_first, *arguments)` over the answers of a tie rule."""
    return np.mean([measure(rivals_first, *arguments) for rivals_first in _ANSWERS[tie_rule]], axis=0)


def relevant_among_first(
    scores: np.ndarray, relevant: np.ndarray, first: np.ndarray, tie_rule: str
) -> np.ndarray:
    """Return how many relevant items are among the `first` [Q] ones of each row of `scores` [Q,G].

    `relevant` [Q,G] is bool. The items that tie with the last of the first ones share the places that are
    left, those ahead by the tie rule before the others.
    """
    found = np.empty(len(scores))
    for query, (row, is_relevant, count) in enumerate(zip(scores, relevant, first, strict=True)):
        last = np.partition(row, len(row) - count)[len(row) - count] if count else np.inf
        above, equal = row > last, row == last
        left = count - np.count_nonzero(above)
        rivals, others = np.count_nonzero(equal & ~is_relevant), np.count_nonzero(equal & is_relevant)
        taken = [max(0, left - rivals) if ahead else min(others, left) for ahead in _ANSWERS[tie_rule]]
        found[query] = np.count_nonzero(above & is_relevant) + sum(taken) / len(taken)
    return found


def lower_index_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the 0-based ranks [Q] if of equal scores [Q,G] the item of the lower index is ahead (open_clip).

    `relevant` [Q,G] is bool. This rule depends on the order of the files, so results do not use it; it
    reproduces numbers of other code.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    first = (relevant & (scores == best)).argmax(axis=1)
    ahead = (scores > best) | ((scores == best) & (np.arange(scores.shape[1]) < first[:, None]))
    return (ahead & ~relevant).sum(axis=1)


def true_in_rows(flags: np.ndarray) -> np.ndarray:
    """Return the number of true values in each row of `flags` [n,g], int64 [n].

    NumPy adds booleans one by one. Eight that lie in one word, or whole rows of bytes, are added at once, up
    to 255 times before a byte would overflow.
    """
    if flags.T.flags.c_contiguous:  # a row lies in a column of the memory
        columns = flags.T.view(np.uint8)
        return sum(
            (
                columns[start : start + 255].sum(axis=0, dtype=np.uint8)
                for start in range(0, len(columns), 255)
            ),
            np.zeros(len(flags), np.int64),
        )
    whole = flags.shape[1] // 8 * 8
    total = flags[:, whole:].sum(axis=1, dtype=np.int64)
    words = np.ascontiguousarray(flags)[:, :whole].view(np.uint64)
    for start in range(0, words.shape[1], 255):
        part = np.ascontiguousarray(words[:, start : start + 255].sum(axis=1, dtype=np.uint64))
        total += part.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64)
    return total
