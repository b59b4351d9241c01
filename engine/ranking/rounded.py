"""Inner products of float32 vectors, rounded to float32 once: a pair has one score, whoever computes it.

A score is the float32 number nearest to the exact inner product, and 0 below the smallest normal number. It
depends on its two vectors alone: not on the vectors beside them, the library, the processor or the threads.
So whole blocks may be multiplied in one place and single pairs in another, and ties stay ties.

Products of float32 numbers are exact in float64, and their sum has an error of at most n u |a| |b| for n
terms in any order (Higham 2002, section 3.1; u is 2^-53). A score is known where rounding comes to the same
at both ends of that interval, and where the numbers are so round that the sum is exact. The few that are
left, about one in a thousand, are added up in two parts, which leaves 2^-53 of the score itself. What then
lies that near to the middle of two float32 numbers is added up without error.
"""

import math
from functools import cached_property
from itertools import pairwise

import numpy as np

from engine.ranking.coarse import lengths

_UNIT = 2.0**-53  # of float64
SMALLEST = float(np.finfo(np.float32).tiny)
_BLOCK_BYTES = 1 << 20  # of vectors in float64: well inside the second-level cache of one core
_TOGETHER = 64  # vectors of which one is multiplied with the others


def rounded_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the inner products [M,N] float32 of `a` [M,D] and `b` [N,D] float32, rounded once."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    sums = wide_a @ wide_b.T
    lengths = [_longest(x) for x in (wide_a, wide_b)]
    error = 0.0 if _sums_are_exact(wide_a, wide_b, *lengths) else _error(a.shape[1], *lengths)
    scores, doubtful = _round(sums, error)
    row, column = np.divmod(doubtful, max(1, len(b)))
    for start in range(0, len(doubtful), 4096):
        part = slice(start, start + 4096)
        scores.reshape(-1)[doubtful[part]] = rounded_pairs(a[row[part]], b[column[part]])
    return scores


def rounded_pairs(a: np.ndarray, b: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """Return the inner products [n] float32 of the pairs of rows of `a` [n,D] and `b` [n,D], rounded once.

    `sizes` [n] float64 are at least the products of the vectors' lengths, if these are known.
    """
    scores = np.empty(len(a), np.float32)
    step = max(1, _BLOCK_BYTES // (16 * max(1, a.shape[1])))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        wide_a, wide_b = a[part].astype(np.float64), b[part].astype(np.float64)
        if sizes is None:
            squares = _dots(wide_a, wide_a) * _dots(wide_b, wide_b)
        error = _error(a.shape[1], np.sqrt(squares) if sizes is None else sizes[part], 1.0)
        found, doubtful = _round(_dots(wide_a, wide_b), error)
        if len(doubtful):
            terms = wide_a[doubtful] * wide_b[doubtful]
            found[doubtful], left = _round(*_added_in_two_parts(terms))
            found[doubtful[left]] = [_added_without_error(each) for each in terms[left]]
        scores[part] = found
    return scores


class PairScores:
    """The inner products of pairs of rows of `a` [M,D] and items, rounded once.

    Item i has the vector `b[vector_of[i]]`; `b` is [N,D], and all are float32.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, vector_of: np.ndarray) -> None:
        self._sides, self._vector_of = (a, b), vector_of

    def __call__(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the products [n] float32 of `rows` [n] and `items` [n].

        Pairs of the same row, or of the same item, are quicker where they come one after another.
        """
        columns = self._vector_of[items]
        sums = np.empty(len(rows))
        sides = zip(self._sides, (rows, columns), strict=True)
        (a, one), (b, other) = sorted(sides, key=lambda side: np.count_nonzero(np.diff(side[1])))
        starts = np.diff(one, prepend=-1) != 0
        starts[::_TOGETHER] = True
        for start, end in pairwise([*np.flatnonzero(starts).tolist(), len(one)]):
            vector, others = a[one[start]], b[other[start:end]]
            sums[start:end] = _dots(others.astype(np.float64), vector.astype(np.float64)[None])
        sizes = self._lengths[0][rows] * self._lengths[1][columns]
        scores, doubtful = _round(sums, _error(a.shape[1], sizes, 1.0))
        scores[doubtful] = rounded_pairs(a[one[doubtful]], b[other[doubtful]])
        return scores

    @cached_property
    def _lengths(self) -> tuple[np.ndarray, np.ndarray]:
        return lengths(self._sides[0]), lengths(self._sides[1])


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the inner products [n] of the pairs of rows of `a` [n,D] and `b` [n,D] or [1,D].

    They are products of single rows: quicker than `einsum`, and made on the calling thread.
    """
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]


def _longest(vectors: np.ndarray) -> float:
    """Return the length of the longest of the `vectors` [N,D] that are finite."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    return math.sqrt(squares[np.isfinite(squares)].max(initial=0))


def _error(terms: int, length: np.ndarray | float, other: np.ndarray | float) -> np.ndarray | float:
    """Return how far a sum of `terms` products may be off, for vectors of these lengths.

    The factor 1.01 covers the errors of the lengths and of this product.
    """
    return 1.01 * (terms + 2) * _UNIT * length * other


def _round(sums: np.ndarray, error: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return `sums` in float32, and the indices [n] in order of memory of those that may round elsewhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores, high = (sums - error).astype(np.float32), (sums + error).astype(np.float32)
    for each in (scores, high):
        each[np.abs(each) < SMALLEST] = 0  # whether or not the thread flushes subnormal numbers
    return scores, np.flatnonzero(scores < high)


def _sums_are_exact(a: np.ndarray, b: np.ndarray, length: float, other: float) -> bool:
    """Tell whether all numbers are multiples of a power of two that is large beside the vectors' lengths.

    Then so are their products, and no sum of them needs more than the 53 bits of float64. This holds for
    whole numbers, where many scores are zero, and an interval around zero holds many numbers.
    """
    size = length * other
    if not 0 < size < np.inf:
        return size == 0
    grid = math.ldexp(1, (math.frexp(size)[1] - 51) // 2)
    # The grid is at least 2^-104 of the lengths' product and at most 2^-25 of a length: no overflow.
    return all(np.array_equal(np.rint(x * (1 / grid)), x * (1 / grid)) for x in (a[:1], b[:1], a, b))


def _added_in_two_parts(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums [n] of float64 `terms` [n,D], and how far each may be off, about 2^-53 of itself.

    The high parts of the terms are multiples of 2^-52 times a power of two that their sums do not exceed, so
    that they are added up exactly, and the low parts are at most 2^-53 of it (Rump, Ogita and Oishi 2008,
    SIAM J. Sci. Comput. 31(1), section 3).
    """
    width = terms.shape[1]
    largest = np.abs(terms).max(axis=1, initial=0)
    exponents = np.frexp(largest)[1] + math.ceil(math.log2(width + 2))
    large = np.ldexp((largest > 0) * 1.0, exponents)[:, None]
    high = (terms + large) - large
    sums = high.sum(axis=1) + (terms - high).sum(axis=1)
    return sums, 1.01 * _UNIT * (np.abs(sums) + width**2 * _UNIT * large[:, 0])


def _added_without_error(terms: np.ndarray) -> float:
    """Return the sum of float64 `terms` [D], rounded to float32 as if it were exact."""
    terms = terms.tolist()
    total = math.fsum(terms)  # rounded to float64 once
    if abs(total) < SMALLEST:
        return 0.0
    nearest = np.float32(total)
    beyond = np.nextafter(nearest, np.float32(math.copysign(math.inf, total - float(nearest))))
    if total != float(nearest) and 2 * total == float(nearest) + float(beyond):
        rest = math.fsum([*terms, -total])  # halfway between two: what float64 lost decides
        if rest:
            return float(max(nearest, beyond) if rest > 0 else min(nearest, beyond))
    return float(nearest)
