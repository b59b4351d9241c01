"""Exact search: what a full sort of all float32 scores finds, in its order.

An engine chooses rows by approximate scores whose error it knows. The chosen rows are scored again in
float32, and the search goes on with more rows until none that was left out can be among the best.

Equal scores are listed in the order of rows, as the evaluator lists them in the order of the split. So that
equal vectors have equal scores, `exact_scores` sums every row alike, wherever it stands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from serving.index.vectors import BLOCK_BYTES, blocks_of, damaged, forget, row_checks

Scores = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows [n,D] and a query [D] -> scores [n]
TakeRows = Callable[[np.ndarray], np.ndarray]  # rows [n] -> vectors [n,D], whose checks have been compared
# A query [D], k, and the allowed rows -> scores [<=k] and rows [<=k] of the best of all rows, best first.
Everything = Callable[[np.ndarray, int, np.ndarray | None], tuple[np.ndarray, np.ndarray]]

_SINGLE = 2.0**-24  # unit roundoff of float32
_MOST_PROPOSED = 4096
_MOST_SCORES = 4 << 20  # that are held at a time: the order of so many takes 32 MB
_KEPT_BYTES = 64 << 20  # that are kept in memory after they were read for a query


class Engine(Protocol):
    """What searches rows."""

    def search(
        self, take: TakeRows, queries: np.ndarray, k: int, allowed: np.ndarray | None, everything: Everything
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores [<=k] and rows [<=k] of the best for each of `queries` [Q,D], best first.

        `take` gives vectors by row. `allowed`, bool [N], are the rows to choose from; None: all. `everything`
        scores all rows for a query: the last resort where more than some thousand rows are too alike to be
        told apart by what the engine knows of them.
        """


def exact_scores(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the inner products [n] of float32 rows [n,D] with a query [D]."""
    return np.einsum("nd,d->n", rows, query)


def best_first(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k highest of `scores` [n] and their `rows`; equal scores in the order of rows."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


class Proposing(ABC):
    """An engine that proposes rows, in the order of approximate scores.

    `error` bounds by how much a proposed score differs from the exact one, for a query of length 1; None: the
    engine may leave out a row whatever its score is.
    """

    error: float | None

    @abstractmethod
    def propose(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores [Q,k] and rows [Q,k] for `queries` [Q,D], best first, and row -1 behind the last.

        `allowed`, bool [N]: the rows to choose from; None: all.
        """

    def search(
        self, take: TakeRows, queries: np.ndarray, k: int, allowed: np.ndarray | None, everything: Everything
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores [<=k] and rows [<=k] of the best for each of `queries` [Q,D] (`Engine`)."""
        bounds = None if self.error is None else self.error * np.linalg.norm(queries, axis=1)
        found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(queries)
        left, wanted = np.arange(len(queries)), max(2 * k, k + 24) if self.error else 2 * k + 8
        while len(left):
            proposed, rows = self.propose(queries[left], wanted, allowed)
            more = (rows[:, -1] >= 0) if rows.shape[1] == wanted else np.zeros(len(left), bool)
            unsure = []
            for place, best in enumerate(_scored_again(take, queries[left], rows, k)):
                found[left[place]] = best
                if self.error is None or not more[place]:
                    continue
                if proposed[place, -1] + bounds[left[place]] >= best[0][-1]:
                    unsure.append(left[place])
            left, wanted = np.array(unsure, np.int64), wanted * 4
            if wanted > _MOST_PROPOSED:
                for query in left:
                    found[query] = everything(queries[query], k, allowed)
                break
        return found


def _scored_again(
    take: TakeRows, queries: np.ndarray, proposed: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield exact scores [<=k] and rows [<=k] of the best of the `proposed` rows [Q,n], where -1 is none."""
    size = max(1, BLOCK_BYTES // (4 * max(1, proposed.shape[1]) * queries.shape[1]))
    for first in range(0, len(queries), size):
        rows = [row[row >= 0] for row in proposed[first : first + size]]
        vectors, end = take(np.concatenate(rows)), 0
        for query, there in zip(queries[first : first + size], rows, strict=True):
            start, end = end, end + len(there)
            yield best_first(exact_scores(vectors[start:end], query), there, k)


def compare(path: Path, rows: np.ndarray, checks: np.ndarray) -> None:
    """Raise UserError unless `rows` [n,D] have the `checks` [n] with which they were written to `path`."""
    if not np.array_equal(row_checks(rows), checks):
        raise damaged(path, "a vector is not what was written")


class Scan(Proposing):
    """An engine that reads the float32 `vectors` [N,D] of the file, and holds nothing in memory.

    Every block is compared with its `checks` [N] when it is read for the first time; UserError, which names
    the file `path`, is raised for a row that has changed.
    """

    def __init__(self, vectors: np.ndarray, checks: np.ndarray, path: Path) -> None:
        self._vectors, self._checks, self._path = vectors, checks, path
        self._compared: set[int] = set()
        self.error = 2 * vectors.shape[1] * _SINGLE  # of sums in two orders (Higham 2002, section 3.1)

    def propose(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        best, places = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for parts in self._together(len(queries)):
            start, end = parts[0].start, parts[-1].stop
            scores = self._scores(queries, parts)
            if allowed is not None:
                scores[~allowed[start:end]] = -np.inf
            kept = min(k, end - start)
            rows = np.argpartition(scores, end - start - kept, axis=0)[end - start - kept :].T  # [Q,kept]
            best = np.concatenate([best, np.take_along_axis(scores.T, rows, axis=1)], axis=1)
            places = np.concatenate([places, rows + start], axis=1)
            order = np.argsort(-best, axis=1)[:, :k]
            best, places = np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)
        return best, np.where(np.isneginf(best), -1, places)

    def _together(self, queries: int) -> Iterator[list[slice]]:
        """Yield lists of blocks whose scores for so many queries are held at a time."""
        blocks = list(blocks_of(*self._vectors.shape))
        step = max(1, _MOST_SCORES // (queries * (blocks[0].stop - blocks[0].start))) if blocks else 1
        for first in range(0, len(blocks), step):
            yield blocks[first : first + step]

    def _scores(self, queries: np.ndarray, parts: list[slice]) -> np.ndarray:
        """Return the inner products [n,Q] of the rows of consecutive blocks with `queries` [Q,D]."""
        first = parts[0].start
        scores = np.empty((parts[-1].stop - first, len(queries)), np.float32)

        def fill(part: slice) -> None:
            block = self._vectors[part]
            if part.start not in self._compared:
                compare(self._path, block, self._checks[part])
                self._compared.add(part.start)
            np.matmul(block, queries.T, out=scores[part.start - first : part.stop - first])
            if self._vectors.nbytes > _KEPT_BYTES:
                forget(block)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(fill, parts))
        return scores

    def everything(
        self, query: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores [<=k] and rows [<=k] of the best for a `query` [D], whatever is alike."""
        scores = self._scores(query[None], list(blocks_of(*self._vectors.shape)))[:, 0]
        if allowed is not None:
            scores[~allowed] = -np.inf
        k = min(k, int(np.isfinite(scores).sum()))
        if not k:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= kth - 2 * self.error * np.linalg.norm(query))
        parts = [rows[part] for part in blocks_of(len(rows), len(query))]
        exact = [exact_scores(self._vectors[part], query) for part in parts]
        return best_first(np.concatenate(exact), rows, k)
