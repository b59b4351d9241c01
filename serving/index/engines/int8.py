"""What searches many vectors exactly by codes of 8 bits a number: all are read, and few vectors after them.

The codes say of each row how high its score with a query may be, and how low. No row can be among the k best
whose highest score is below the k-th of all lowest. Those that can are scored from their vectors, beginning
with those that may score highest.

A query alone is rounded to 7 bits, and all codes are read once, where they lie. Where some of its numbers are
far larger than the rest, the sixteenth of them that is largest has 14 bits. That leaves more rows to score
than 14 bits throughout would, but a second product would take longer than these; only where too many are
left, the query is asked again with 14 bits. Queries together have 14 bits at once, since what each leaves
adds up.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from config.machine.cores import bind_helper
from serving.index.engines.codes import SINGLE, Codes
from serving.index.engines.exact import Everything, TakeRows, best_first, exact_scores
from serving.index.engines.integers import LARGEST, ZERO, multiply

_BASE = 2 * LARGEST + 1  # a query's numbers are whole and have one or two digits of this base
_MANY_TO_A_LARGE = 16  # columns, of which one may be too large for one digit of a query alone
_PEAK = 5  # times the usual size: a query with a larger number has such columns (Gaussian ones have none)
_FIRST_ROWS = 4096  # by which a first threshold is known
_BLOCK_PRODUCTS = 1 << 16  # that are compared at a time: they stay in a core's cache
_FEWEST_TAKEN = 4096  # rows that may be taken one by one for a query, before all vectors are read
_LOWEST = np.finfo(np.float32).min


class Int8:
    """An exact engine that reads codes of all rows, a quarter of what they take as float32.

    The rows are shared among `threads` threads, of which the caller's is one.
    """

    def __init__(self, codes: Codes, threads: int) -> None:
        self._codes, count = codes, len(codes.steps)
        tiles = -(-count // codes.tile)
        cuts = np.linspace(0, tiles, min(threads, max(1, tiles)) + 1).astype(int) * codes.tile
        self._parts = list(pairwise(np.minimum(cuts, count).tolist()))
        self._pool = ThreadPoolExecutor(max(1, len(self._parts) - 1), initializer=bind_helper)
        self._most_taken = max(_FEWEST_TAKEN, count // 8)

    @property
    def memory(self) -> int:
        """Return the bytes that are held."""
        return self._codes.memory

    def search(
        self, take: TakeRows, queries: np.ndarray, k: int, allowed: np.ndarray | None, everything: Everything
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores [<=k] and rows [<=k] of the best for each of `queries` [Q,D] (`exact.Engine`)."""
        alone = len(queries) == 1
        lists = self._shortlists(queries, k, allowed, 1) if alone else [None]
        if None in lists:
            lists = self._shortlists(queries, k, allowed, 2)
        return [
            everything(query, k, allowed) if own is None else _scored(take, query, k, *own)
            for query, own in zip(queries, lists, strict=True)
        ]

    def _shortlists(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, digits: int
    ) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Return for each query the highest scores [n], sorted, and rows [n] of those that may be its best.

        None stands for a query that has too many of them.
        """
        asked = _asked(queries, self._codes, digits)
        mine, *others = self._parts
        reading = [self._pool.submit(self._read, *part, asked, k, allowed) for part in others]
        shortlist = self._read(*mine, asked, k, allowed)
        for each in reading:
            shortlist.join(each.result())
        return [
            None if own is None else (own[0] + base, own[1])
            for base, own in zip(asked.bases, shortlist.of_each(), strict=True)
        ]

    def _read(
        self, start: int, end: int, asked: "_Asked", k: int, allowed: np.ndarray | None
    ) -> "_Shortlist":
        """Return what may be among the k best of the rows from `start`, where a tile begins, to `end`."""
        codes, count = self._codes, len(asked.bases)
        shortlist = _Shortlist(count, k, self._most_taken)
        size = max(1, _BLOCK_PRODUCTS // (count * codes.tile)) * codes.tile
        while start < end:
            rows = slice(start, min(start + size, end))
            steps = codes.steps[rows] * asked.step
            off = steps * codes.lengths[rows] * asked.off + codes.errors[rows] * asked.length  # [n]
            tiles = [codes.columns(each) for each in range(rows.start, rows.stop, codes.tile)]
            products = np.concatenate([multiply(asked.digits, each) for each in tiles], axis=1)  # [R,n]
            products -= codes.sums[rows] * np.int32(ZERO)
            highest, upper = products[:count].astype(np.float32), products[count:]  # [Q,n]
            if len(asked.large):
                upper = [multiply(asked.upper, each[asked.large]) for each in tiles]
                upper = np.concatenate([each[:1] - each[1:] for each in upper], axis=1)
            if len(upper):
                highest += upper.astype(np.float32) * _BASE
            highest *= steps
            highest += off
            if allowed is not None:
                highest[:, ~allowed[rows]] = -np.inf
            shortlist.add(highest, off, start)
            start = rows.stop
        return shortlist


@dataclass(frozen=True)
class _Asked:
    """Queries [Q,D], each times the widths of the columns, as whole numbers times `step`.

    The numbers are `digits[q] - ZERO`, and with two digits `_BASE` times `digits[Q + q] - ZERO` more. A query
    alone that is asked with one digit has a second one in the few columns `large` where one does not reach:
    `upper` has these, and below them what stands for zero. `bases` [Q] are the scores of the centre. `length`
    is that of the longest query, and `off` bounds how far a sum of products may be off its true value, in
    steps of query and row, for a row whose numbers have length 1, since the query's numbers are rounded, and
    the sums.
    """

    digits: np.ndarray  # uint8 [Q,D] or [2Q,D]
    large: np.ndarray  # [L]
    upper: np.ndarray  # uint8 [2,L]
    bases: np.ndarray  # float32 [Q]
    step: np.float32
    length: np.float32
    off: np.float32


def _asked(queries: np.ndarray, codes: Codes, digits: int) -> _Asked:
    precise = queries.astype(np.float64)
    wide = precise * codes.widths  # [Q,D]
    sizes = np.sort(np.abs(wide).max(axis=0))
    step = sizes[-1] / LARGEST
    if digits == 2 or sizes[-1] > _PEAK * np.sqrt(np.square(sizes).mean()):
        most = sizes[-1 - len(sizes) // _MANY_TO_A_LARGE] if digits == 1 else 0
        step = max(step / _BASE, most / LARGEST)
    step = np.float32(step * (1 + 1e-6)) or np.float32(1)
    whole = np.rint(wide / step)
    rest = np.linalg.norm(wide / step - whole, axis=1).max()
    rounded = np.linalg.norm(wide / step, axis=1).max() + LARGEST * queries.shape[1] ** 0.5  # of the digits
    upper = np.rint(whole / _BASE)
    lower = whole - _BASE * upper
    large = np.flatnonzero(upper[0]) if digits == 1 else np.empty(0, np.int64)
    return _Asked(
        (np.concatenate([lower, upper] if digits > 1 else [lower]) + ZERO).astype(np.uint8),
        large,
        (np.stack([upper[0, large], np.zeros(len(large))]) + ZERO).astype(np.uint8),
        (precise @ codes.centre).astype(np.float32),
        step,
        np.float32(np.linalg.norm(precise, axis=1).max() * (1 + 1e-6)),
        np.float32((rest + 16 * SINGLE * rounded) * (1 + 1e-6)),
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
        """Add those of the rows from `start` on whose `highest` scores [Q,n] reach the threshold.

        Their lowest scores are twice `off` [n] below.
        """
        count = len(off)
        some = min(count, max(_FIRST_ROWS, 4 * self._k))
        if not self._parts and some > self._k:
            lowest = highest[:, :some] - 2 * off[:some]
            kth = np.partition(lowest, some - self._k, axis=1)[:, some - self._k]
            self._thresholds = np.maximum(kth, _LOWEST)
        places = np.flatnonzero(highest >= self._thresholds[:, None])
        which, scores = places // count, highest.ravel()[places]
        rows = places - which * count
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
        if self._count == 1 and len(lowest) >= self._k:
            self._thresholds[0] = np.partition(lowest, len(lowest) - self._k)[len(lowest) - self._k]
        elif self._count > 1:
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
        order = np.lexsort((-highest, which)) if self._count > 1 else np.argsort(-highest, kind="stable")
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
            end = min(np.count_nonzero(highest >= least), 4 * len(scores))
    return best_first(scores, rows[: len(scores)], k)
