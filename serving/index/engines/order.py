"""Search by order similarity: a sentence fits a picture as far as its numbers do not exceed the picture's.

There is no index for a measure that is not symmetric, so this search is exact, and reads all vectors.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.index.engines.exact import best_first, compare, exact_scores
from serving.index.vectors import blocks_of

_PIECE_BYTES = 256 << 10  # well inside the second-level cache of one core


def order_scores(rows: np.ndarray, query: np.ndarray, rows_are_pictures: bool) -> np.ndarray:
    """Return -||max(0, sentence - picture)|| [n] of rows [n,D] and a query [D] (arXiv 1511.06361, eq. 2)."""
    scores = np.empty(len(rows), np.float32)
    size = max(1, _PIECE_BYTES // query.nbytes)
    buffer = np.empty((min(size, len(rows)), len(query)), np.float32)
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        excess = buffer[: len(piece)]  # [P,D]
        # max(text, picture) - picture is max(0, text - picture), but NumPy compares faster with an array
        np.maximum(piece, query, out=excess)
        np.subtract(excess, piece if rows_are_pictures else query, out=excess)
        scores[start : start + size] = np.einsum("nd,nd->n", excess, excess)
    return np.negative(np.sqrt(scores, out=scores), out=scores)


def search_by_order(
    vectors: np.ndarray,
    checks: np.ndarray,
    query: np.ndarray,
    k: int,
    allowed: np.ndarray | None,
    rows_are_pictures: bool,
    query_is_picture: bool,
    path: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [<=k] and rows [<=k] of the best of `vectors` [N,D], equal scores in the order of rows.

    A query of the kind that the rows are is compared by cosine. Each block is compared with its `checks` [N];
    UserError, which names the file `path`, is raised for a row that has changed.
    """
    scores = np.empty(len(vectors), np.float32)

    def fill(part: slice) -> None:
        compare(path, vectors[part], checks[part])
        if rows_are_pictures == query_is_picture:
            scores[part] = cosines(vectors[part], query)
        else:
            scores[part] = order_scores(vectors[part], query, rows_are_pictures)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, blocks_of(*vectors.shape)))
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    if k < len(rows):
        kth = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= kth]
    return best_first(scores[rows], rows, k)


def cosines(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosines [n] of rows [n,D] with a query [D]; a vector of zeros has 0 with all."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows)) * np.sqrt(np.einsum("d,d->", query, query))
    return exact_scores(rows, query) / np.maximum(lengths, np.finfo(np.float32).tiny)
