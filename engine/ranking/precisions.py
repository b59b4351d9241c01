"""Precisions of all relevant items: at R (AP@R and R-precision), and discounted gains of graded ones."""

from collections.abc import Iterator

import numpy as np

from datasets.relevance import Relevance
from engine.ranking.counter import answers_of, mean_over_ties, relevant_among_first

_BLOCK = 1 << 21  # scores that are looked at together


def precisions_at_r(
    rivals: np.ndarray, relevant: np.ndarray, counts: np.ndarray, rivals_first: bool
) -> np.ndarray:
    """Return average precision at R and R-precision [2,Q] (arXiv 2003.08505, sec. 3.3).

    `relevant` [Q,W] are the scores of each query's R relevant items and `rivals` [Q,L] the highest ones of
    its irrelevant items, -infinity after the last; `counts` [Q] are R, at most L. `rivals_first` puts rivals
    first in a tie.
    """
    sides = [rivals, relevant]
    of_relevant = np.repeat([False, True], [rivals.shape[1], relevant.shape[1]])
    if not rivals_first:
        sides, of_relevant = sides[::-1], of_relevant[::-1]
    order = np.argsort(-np.concatenate(sides, axis=1), axis=1, kind="stable")[:, : rivals.shape[1]]
    position = np.arange(1, order.shape[1] + 1)
    hits = of_relevant[order] & (position <= counts[:, None])  # [Q,R]
    precision = hits.cumsum(axis=1) / position
    return np.stack([(precision * hits).sum(axis=1), hits.sum(axis=1)]) / counts


def precisions_of_rows(
    scores: np.ndarray, relevance: Relevance, tie_rule: str, absent: np.ndarray | int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return average precision at R and R-precision [Q] from whole rows of `scores` [Q,G].

    `relevance` [Q,G] has an item for each query. They are means over the answers of `tie_rule`. `absent` [Q]
    further relevant items, which are not in the gallery, add to R.
    """
    found = np.empty((2, len(scores)))
    wanted = relevance.of_images + absent
    widest = int(wanted.max())
    for rows, block in _blocks(scores):
        lists, counts = relevance.lists()[rows], wanted[rows]
        there = lists >= 0
        relevant = np.where(there, np.take_along_axis(block, np.maximum(lists, 0), axis=1), -np.inf)
        rivals = np.array(block)
        row, column = np.nonzero(there)
        rivals[row, lists[row, column]] = -np.inf
        rivals = leading(rivals, min(widest, rivals.shape[1]))
        found[:, rows] = mean_over_ties(
            tie_rule, lambda first, *of: precisions_at_r(*of, first), rivals, relevant, counts
        )
    return found[0], found[1]


def leading(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` highest values of each of `rows` [Q,G], in any order, [Q,count].

    The highest values of chunks bound them from below, so that few values of a row are left to be parted.
    """
    chunks = 4 * count
    width = rows.shape[1] // chunks
    if width >= 4:
        maxima = rows[:, : chunks * width].reshape(len(rows), chunks, width).max(axis=2)
        bound = np.partition(maxima, -count, axis=1)[:, -count, None]
        row, column = np.nonzero(rows >= bound)
        counts = np.bincount(row, minlength=len(rows))
        if counts.max() <= rows.shape[1] // 4:
            few = np.full((len(rows), counts.max()), -np.inf, rows.dtype)
            few[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = rows[row, column]
            rows = few
    return np.partition(rows, -count, axis=1)[:, -count:]


def r_precision_of_rows(
    scores: np.ndarray, relevant: np.ndarray, tie_rule: str, at_most: int | None = None
) -> np.ndarray:
    """Return the R-precision [Q] of any number of relevant items, from `scores` and `relevant` [Q,G].

    With `at_most`, lists are cut there, so that R is at most so large, as for the numbers of ECCV Caption's
    paper on PMRP.
    """
    counts = relevant.sum(axis=1)
    first = counts if at_most is None else np.minimum(counts, at_most)
    return relevant_among_first(scores, relevant, first, tie_rule) / first


def discounted_gains(scores: np.ndarray, relevance: Relevance, tie_rule: str) -> np.ndarray:
    """Return the nDCG [Q] of whole rows of `scores` [Q,G], with grades as gains and 1 / log2(1 + place).

    Grades of 1 are taken where `relevance` has none (Jaervelin and Kekaelaeinen 2002, ACM TOIS 20(4)). In a
    tie that counts against the model, irrelevant items come first, then those of lower grades. A query
    without a relevant item has 0.
    """
    found = np.zeros(len(scores))
    grades = np.ones(len(relevance.images)) if relevance.grades is None else relevance.grades
    for query, row in enumerate(scores):
        own = slice(relevance.starts[query], relevance.starts[query + 1])
        gains, items = grades[own], relevance.captions[own]
        if not len(items):
            continue
        discounts = 1 / np.log2(np.arange(2, len(row) + 2))
        ideal = np.sort(gains)[::-1] @ discounts[: len(gains)]
        rivals = np.sort(np.delete(row, items))
        of_answers = []
        for rivals_first in answers_of(tie_rule):
            order = np.lexsort((gains if rivals_first else -gains, -row[items]))
            side = "left" if rivals_first else "right"
            ahead = len(rivals) - np.searchsorted(rivals, row[items][order], side)
            of_answers.append(gains[order] @ discounts[ahead + np.arange(len(order))] / ideal)
        found[query] = np.mean(of_answers)
    return found


def _blocks(scores: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        yield slice(start, start + step), np.asarray(scores[start : start + step])
