"""What an index loses, and when nothing in it fits: measured when it is built, and written on its card."""

from collections.abc import Sequence

import numpy as np

from serving.index.engines.exact import exact_scores
from serving.index.vectors import blocks_of

QUERIES = 400  # on which the recall of an exact engine is measured
LIST_QUERIES = 1600  # half of which choose how many lists are looked into, and the others measure
CALIBRATION = 2000  # sentences of which the cut-off is made
SAMPLE = 1024  # items that show how a query scores in general
FALSE_ACCEPTS = 0.05
_NOISE = 0.5  # length of what is added to a vector of length 1 to make a query


def perturbed(vectors: np.ndarray, number: int) -> np.ndarray:
    """Return queries [n,D] of length 1, each a random row of `vectors` [N,D] with random noise added."""
    random = np.random.default_rng(1)
    rows = np.sort(random.choice(len(vectors), min(number, len(vectors)), replace=False))
    noise = random.standard_normal((len(rows), vectors.shape[1]), dtype=np.float32)
    queries = vectors[rows] + noise * (_NOISE / np.sqrt(vectors.shape[1]))
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def true_best(vectors: np.ndarray, queries: np.ndarray, k: int) -> list[np.ndarray]:
    """Return the rows of the `k` best of `vectors` [N,D] for each of `queries` [Q,D], by all inner products.

    Rows that are as good as the k-th, but for rounding, are among them, so that a list may be longer.
    """
    k = min(k, len(vectors))
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for part in blocks_of(*vectors.shape):
        scores = vectors[part] @ queries.T  # [n,Q]
        for number, column in enumerate(np.ascontiguousarray(scores.T)):
            rows = np.arange(len(column))
            if len(column) > k:
                kth = np.partition(column, len(column) - k)[len(column) - k]
                rows = np.flatnonzero(column >= kth - 1e-6)
            together = np.concatenate([best[number][0], column[rows]])
            places = np.concatenate([best[number][1], rows + part.start])
            kth = (
                np.partition(together, len(together) - k)[len(together) - k] if len(together) > k else -np.inf
            )
            best[number] = together[together >= kth - 1e-6], places[together >= kth - 1e-6]
    return [rows for _, rows in best]


def recalls(found: Sequence[np.ndarray], true: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Return, for each query, the share of `k` places that hold a row of the `true` best: float64 [Q]."""
    return np.array(
        [
            len(np.intersect1d(rows[:k], best)) / min(k, len(best))
            for rows, best in zip(found, true, strict=True)
        ]
    )


def recall(found: Sequence[np.ndarray], true: Sequence[np.ndarray], k: int) -> float:
    """Return the share of `k` places, over all queries, that hold a row of the `true` best."""
    return float(recalls(found, true, k).mean())


def normalised(best: np.ndarray, general: np.ndarray) -> np.ndarray:
    """Return how many standard deviations `best` [Q] is above the mean of `general` [Q,S]."""
    return (best - general.mean(axis=1)) / np.maximum(general.std(axis=1), 1e-12)


def calibrate_cutoff(wrong: np.ndarray, usual: np.ndarray, accepted: float = FALSE_ACCEPTS) -> dict:
    """Return the cut-off of best answers, in standard deviations of a query's own scores, with its errors.

    `wrong` [Q] are the `normalised` best scores of queries that nothing in the collection fits, and `usual`
    [R], perhaps none, those of queries that something fits. The cut-off lets through the share `accepted` of
    the first, third, ... of the wrong ones. How many of the others it lets through is measured, and how many
    of the second, fourth, ... usual ones it turns away (None without any).
    """
    cutoff = float(np.quantile(wrong[::2], 1 - accepted))
    return {
        "deviations": cutoff,
        "false_accept_rate": float((wrong[1::2] >= cutoff).mean()),
        "turned_away_rate": float((usual[1::2] < cutoff).mean()) if len(usual) > 1 else None,
        "queries": len(wrong),
    }


def best_scores(
    vectors: np.ndarray, queries: np.ndarray, right: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best inner products [Q] of `queries` [Q,D] with all rows, and with those not `right`."""
    best, wrong = np.full((2, len(queries)), -np.inf, np.float32)
    for part in blocks_of(*vectors.shape):
        scores = vectors[part] @ queries.T  # [n,Q]
        best = np.maximum(best, scores.max(axis=0))
        for number, rows in enumerate(right):
            inside = rows[(rows >= part.start) & (rows < part.stop)] - part.start
            scores[inside, number] = -np.inf
        wrong = np.maximum(wrong, scores.max(axis=0))
    return best, wrong


def sample_scores(sample: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the inner products [Q,S] of queries [Q,D] with the rows of a sample [S,D]."""
    return np.stack([exact_scores(sample, query) for query in queries])
