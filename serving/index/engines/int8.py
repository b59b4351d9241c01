"""What searches many vectors exactly by codes of 8 bits a number: all are read, and few vectors after them.

The codes say of each row how high its score with a query may be, and how low. No row can be among the k best
whose highest score is below the k-th of all lowest. Those that can are scored from their vectors, beginning
with those that may score highest.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving.index.engines.codes import MOST_STEPS, SINGLE, Codes
from serving.index.engines.exact import Everything, TakeRows, best_first, exact_scores
from serving.index.engines.integers import LARGEST, multiply

_BASE = 2 * LARGEST + 1  # a query's numbers are whole and have two digits of this base
_FIRST_ROWS = 2048  # after these, a threshold is known
_BLOCK_PRODUCTS = 1 << 16  # that are compared at a time: they stay in a core's cache
_FEWEST_TAKEN = 4096  # rows that may be taken one by one for a query, before all vectors are read
_LOWEST = np.finfo(np.float32).min


class Int8:
    """An exact engine that reads codes of all rows, a quarter of what they take as float32.

    The rows are shared among `threads` threads.
    """

    def __init__(self, codes: Codes, threads: int) -> None:
        self._codes, count = codes, len(codes.numbers)
        cuts = np.linspace(0, count, min(threads, max(1, count // _FIRST_ROWS)) + 1).astype(int).tolist()
        self._parts = list(zip(cuts[:-1], cuts[1:], strict=True))
        self._pool = ThreadPoolExecutor(len(self._parts))
        self._most_taken = max(_FEWEST_TAKEN, count // 8)

    @property
    def memory(self) -> int:
        """Return the bytes that are held."""
        return self._codes.memory

    def search(
        self, take: TakeRows, queries: np.ndarray, k: int, allowed: np.ndarray | None, everything: Everything
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores [<=k] and rows [<=k] of the best for each of `queries` [Q,D] (`exact.Engine`)."""
        asked = _asked(queries, self._codes)

        def read(part: tuple[int, int]) -> _Shortlist:
            return self._read(*part, asked, k, allowed)

        shortlist, *others = self._pool.map(read, self._parts)
        for other in others:
            shortlist.join(other)
        return [
            everything(query, k, allowed) if own is None else _scored(take, query, k, own[0] + base, own[1])
            for query, base, own in zip(queries, asked.bases, shortlist.of_each(), strict=True)
        ]

    def _read(
        self, start: int, end: int, asked: "_Asked", k: int, allowed: np.ndarray | None
    ) -> "_Shortlist":
        """Return what may be among the k best of the rows from `start` to `end`."""
        codes, count = self._codes, len(asked.bases)
        shortlist, size = _Shortlist(count, k, self._most_taken), _FIRST_ROWS
        while start < end:
            rows = slice(start, min(start + size, end))
            steps = codes.steps[rows] * asked.step
            off = steps * asked.off + codes.errors[rows] * asked.length  # [n]
            products = multiply(codes.numbers[rows], asked.digits).astype(np.float32)  # [n,2Q]
            highest = products[:, :count]
            highest *= _BASE
            highest += products[:, count:]
            highest *= steps[:, None]
            highest += off[:, None]  # [n,Q]
            if allowed is not None:
                highest[~allowed[rows]] = -np.inf
            shortlist.add(highest, off, start)
            start, size = rows.stop, max(_FIRST_ROWS, _BLOCK_PRODUCTS // count)
        return shortlist


@dataclass(frozen=True)
class _Asked:
    """Queries [Q,D], each times the widths of the columns, as whole numbers times `step`.

    The numbers are `digits[:, q] * _BASE + digits[:, Q + q]`. `bases` [Q] are the scores of the centre.
    `length` is that of the longest query, and `off` bounds how far a sum of products may be off its true
    value, in steps of query and row, since the query's numbers are rounded, and the sums.
    """

    digits: np.ndarray  # int8 [D,2Q]
    bases: np.ndarray  # float32 [Q]
    step: np.float32
    length: np.float32
    off: np.float32


def _asked(queries: np.ndarray, codes: Codes) -> _Asked:
    precise = queries.astype(np.float64)
    wide = precise * codes.widths  # [Q,D]
    step = np.float32(np.abs(wide).max() / (LARGEST * _BASE) * (1 + 1e-6)) or np.float32(1)
    whole = np.rint(wide / step)
    upper = np.rint(whole / _BASE)
    rest = np.linalg.norm(wide / step - whole, axis=1).max()
    rest += 16 * SINGLE * np.linalg.norm(wide / step, axis=1).max()
    digits = np.concatenate([upper, whole - _BASE * upper]).astype(np.int8).T
    return _Asked(
        np.ascontiguousarray(digits),
        (precise @ codes.centre).astype(np.float32),
        step,
        np.float32(np.linalg.norm(precise, axis=1).max() * (1 + 1e-6)),
        np.float32(rest * MOST_STEPS * queries.shape[1] ** 0.5),
    )


class _Shortlist:
    """The rows that may be among the k best of each query; one that has more than `most` gives up."""

    def __init__(self, count: int, k: int, most: int) -> None:
        self._count, self._k, self._most = count, k, most
        self._thresholds = np.full(count, _LOWEST, np.float32)  # the k-th of all lowest scores so far
        self._given_up = np.zeros(count, bool)
        self._parts: list[tuple[np.ndarray, ...]] = []  # query, row, highest and lowest score of each
        self._room = self._size = 0

    def add(self, highest: np.ndarray, off: np.ndarray, start: int) -> None:
        """Add those of the rows from `start` on whose `highest` scores [n,Q] reach the threshold.

        Their lowest scores are twice `off` [n] below.
        """
        if not self._parts and len(highest) > self._k:
            lowest = highest - 2 * off[:, None]
            kth = np.partition(lowest, len(lowest) - self._k, axis=0)[len(lowest) - self._k]
            self._thresholds = np.maximum(kth, _LOWEST)
        rows, which = np.nonzero(highest >= self._thresholds)
        scores = highest[rows, which]
        self._parts.append((which, rows + start, scores, scores - 2 * off[rows]))
        self._size += len(rows)
        if self._size > self._room:
            self.shorten()
            self._room = 2 * self._size + 4 * self._count * self._k

    def join(self, other: "_Shortlist") -> None:
        """Add what another list of the same queries has."""
        self._parts += other._parts
        self._given_up |= other._given_up

    def shorten(self) -> None:
        """Raise the thresholds to what is known by now, and keep what reaches them."""
        which, rows, highest, lowest = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        order = np.lexsort((-lowest, which))
        starts = np.searchsorted(which[order], np.arange(self._count + 1))
        kth = starts[:-1] + self._k - 1
        known = kth < starts[1:]
        self._thresholds[known] = lowest[order[kth[known]]]
        kept = highest >= self._thresholds[which]
        self._given_up |= np.bincount(which[kept], minlength=self._count) > self._most
        self._thresholds[self._given_up] = np.inf
        kept &= ~self._given_up[which]
        self._parts = [(which[kept], rows[kept], highest[kept], lowest[kept])]
        self._size = len(self._parts[0][0])

    def of_each(self) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Return highest scores [n] and rows [n] of each query, highest first; None where it gave up."""
        self.shorten()
        which, rows, highest, _ = self._parts[0]
        order = np.lexsort((-highest, which))
        ends = np.searchsorted(which[order], np.arange(self._count + 1))
        own = [order[ends[number] : ends[number + 1]] for number in range(self._count)]
        return [
            None if given_up else (highest[places], rows[places])
            for places, given_up in zip(own, self._given_up, strict=True)
        ]


def _scored(
    take: TakeRows, query: np.ndarray, k: int, highest: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact scores [<=k] and rows [<=k] of the best of `rows` [n], which score `highest` [n] at most.

    The rows stand in the order of `highest`.
    """
    scores, end = np.empty(0, np.float32), k + 8
    while len(scores) < min(end, len(rows)):
        more = exact_scores(take(rows[len(scores) : end]), query)
        scores = np.concatenate([scores, more])
        if len(scores) >= k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            end = min(np.count_nonzero(highest >= least), 2 * len(scores))
    return best_first(scores, rows[: len(scores)], k)
