"""Coarse products of vectors, which take a fraction of the time of float32 ones, and bounds on their errors.

A vector a is taken as a' + r, where a' has numbers of 16 bits and r is what rounding leaves. With |r| known
(it is measured for each vector, and far smaller than the worst case),

    |a b - a' b'| <= |r_a| |b'| + |a| |r_b|    (Cauchy-Schwarz),    |b'| <= |b| + |r_b|,

and adding up n products a'_k b'_k in float32, in any order, is off by at most n u |a'| |b'| with u = 2^-24
(Higham 2002, section 3.1; products of two bfloat16 numbers are exact, and their instructions round sums to
nearest). A processor may take subnormal numbers for zeros: as operands they count as part of r, as sums they
are off by 2^-126 each. The score itself is rounded, by u |a| |b|. `margins` adds all of this up.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.kernels import onednn_products
from models.kernels.choice import BFLOAT16, COARSE, DIGITS, FINE, FLOAT32, INT16, quickest
from models.kernels.mkl import multiply_integers_on_one_thread
from models.kernels.products import multiply_on_one_thread

_NARROWEST = 128  # dimensions; products of shorter vectors take too little time to matter
_LONGEST = 46000  # length of a vector of whole numbers: sums of products then fit into 32 bits, in any order
_LARGEST = 32767  # of int16
_LARGEST_OF_DIGITS = 127 * 256 + 127
_ROWS = 64  # of vectors that are rounded together: they stay in the cache of a core
_UNIT = 2.0**-24  # of float32
_SMALLEST = 2.0**-126  # the smallest normal number of float32


@dataclass(frozen=True)
class Operand:
    """Vectors [V,D] as a kind of products takes them.

    A score is about `unit` times `other.unit` times a product of the two operands' `numbers` [V,D].
    `length` and `error` (float64 [V]) are at least the length of each vector, and of what its numbers differ
    from it. `roundings` is how many roundings of float32 a product passes through: one for each of its terms,
    or one in all if whole numbers are added up. A product leaves out that of two parts of the numbers, of
    which `rest` [V] is at least the length, in the vectors' units.
    """

    numbers: np.ndarray
    length: np.ndarray
    error: np.ndarray
    roundings: int
    unit: float = 1.0
    rest: np.ndarray | None = None


class Products(Protocol):
    """A kind of coarse products."""

    def operand(self, vectors: np.ndarray) -> Operand:
        """Return float32 `vectors` [V,D] as `multiply` takes them."""

    def multiply(self, rows: Operand, columns: Operand) -> np.ndarray:
        """Return the products [V,W] float32 of the numbers of two operands, made on the calling thread."""


class Bfloat16Products:
    """Products of vectors of 8 significant bits."""

    def operand(self, vectors: np.ndarray) -> Operand:
        """Round the vectors."""
        numbers, rest = _bfloat16(vectors)
        return Operand(numbers, lengths(vectors), lengths(rest), roundings=vectors.shape[1])

    def multiply(self, rows: Operand, columns: Operand) -> np.ndarray:
        """Multiply by oneDNN."""
        return onednn_products.multiply(rows.numbers, columns.numbers.T)


class Int16Products:
    """Products of vectors of whole numbers, which are exact."""

    def operand(self, vectors: np.ndarray) -> Operand:
        """Scale the vectors so that no sum of products overflows, and round them."""
        numbers, unit, length, error = _whole_numbers(vectors, _LARGEST, _LONGEST)
        return Operand(numbers, length, error, 1, unit)

    def multiply(self, rows: Operand, columns: Operand) -> np.ndarray:
        """Multiply by MKL."""
        return multiply_integers_on_one_thread(rows.numbers, columns.numbers.T).astype(np.float32)


class DigitProducts:
    """Products of vectors of whole numbers, by products of their two digits, which are bytes.

    A number of 16 bits is 256 h + l, where h and l are bytes. Of the product of two vectors,
    256 (256 h h' + h l' + l h') + l l', the last part is left out: it is at most |l| |l'|. Sums of bytes are
    exact. Two numbers of float32 are added up, neither of which is larger than 4 |a'| |b'|, since
    |256 h| and |l| are at most 2 |a'|.
    """

    def operand(self, vectors: np.ndarray) -> Operand:
        """Scale the vectors, and write the digits h, l and h of the numbers beside each other."""
        numbers, unit, length, error = _whole_numbers(vectors, _LARGEST_OF_DIGITS, np.inf)
        digits, rest = np.empty((len(vectors), 3, vectors.shape[1]), np.int8), np.empty(len(vectors))
        for start in range(0, len(vectors), _ROWS):
            part = slice(start, start + _ROWS)
            low = numbers[part].astype(np.int8)  # the low byte, from -128 to 127
            high = ((numbers[part] + 128) >> 8).astype(np.int8)
            digits[part, 0], digits[part, 1], digits[part, 2] = high, low, high
            rest[part] = unit * lengths(low.astype(np.float32))
        return Operand(digits.reshape(len(digits), -1), length, error, 16, 256 * unit, rest)

    def multiply(self, rows: Operand, columns: Operand) -> np.ndarray:
        """Multiply by oneDNN."""
        width = rows.numbers.shape[1] // 3
        high_low, low_high, high = slice(0, 2 * width), slice(width, 3 * width), slice(0, width)
        products = onednn_products.multiply(rows.numbers[:, high_low], columns.numbers[:, low_high].T)
        return onednn_products.multiply(rows.numbers[:, high], columns.numbers[:, high].T, products, 1 / 256)


class SingleProducts:
    """Products in float32, which leave only the rounding of their sums open."""

    def operand(self, vectors: np.ndarray) -> Operand:
        """Take the vectors as they are."""
        return Operand(vectors, lengths(vectors), np.zeros(len(vectors)), vectors.shape[1])

    def multiply(self, rows: Operand, columns: Operand) -> np.ndarray:
        """Multiply by the library that was chosen for products."""
        return multiply_on_one_thread(rows.numbers, columns.numbers.T)


_KINDS = {DIGITS: DigitProducts, BFLOAT16: Bfloat16Products, INT16: Int16Products}


def kinds_of_products(width: int) -> list[Products]:
    """Return what to multiply vectors of `width` dimensions with, coarsest and quickest first.

    Which coarse products are quicker than those of float32, and which of them most, was measured. Finer ones
    come behind those of 8 significant bits, if they are quicker than those of float32, too.
    """
    kinds = dict.fromkeys((quickest(COARSE), quickest(FINE)) if width >= _NARROWEST else ())
    return [*(_KINDS[numbers]() for numbers in kinds if numbers != FLOAT32), SingleProducts()]


def margins(queries: Operand, items: Operand) -> np.ndarray:
    """Return how far the coarse score of each query [Q] may be from its score with any of the items."""
    longest, largest_error = items.length.max(initial=0), items.error.max(initial=0)
    sizes = (queries.length + queries.error) * (longest + largest_error)
    left_out = 0.0 if queries.rest is None else queries.rest * items.rest.max(initial=0)
    return (
        queries.error * (longest + largest_error)
        + queries.length * largest_error
        + left_out
        + rounding_margin(queries.roundings, sizes)
    )


def rounding_margin(terms: int, size: np.ndarray | float) -> np.ndarray | float:
    """Return how far a float32 sum of `terms` products may be off, and a score by its rounding.

    `size` is at least the product of the vectors' lengths.
    """
    return (terms + 8) * _UNIT * size + (2 * terms + 8) * _SMALLEST


def _bfloat16(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `vectors` [V,D] in bfloat16 (as uint16), and what rounding left, float32.

    They are rounded half up, which is one addition to the bits of a number.
    """
    bits = np.ascontiguousarray(vectors).view(np.uint32) + np.uint32(1 << 15)
    numbers = (bits >> np.uint32(16)).astype(np.uint16)
    return numbers, vectors - np.bitwise_and(bits, np.uint32(0xFFFF0000), out=bits).view(np.float32)


def _whole_numbers(
    vectors: np.ndarray, largest: int, longest: int
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Return int16 numbers [V,D] of which `vectors` [V,D] are about `unit` times as large.

    No number is larger than `largest`, and no vector much longer than `longest`. Then come the unit, and the
    lengths of the vectors and of their errors [V].
    """
    length = lengths(vectors)
    size = max(float(vectors.max(initial=0)), -float(vectors.min(initial=0)))
    unit = np.float32(max(length.max(initial=0) / longest, 1.0001 * size / largest, 2 * _SMALLEST))
    numbers, error = np.empty(vectors.shape, np.int16), np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS):
        part = slice(start, start + _ROWS)
        scaled = vectors[part] / unit
        numbers[part] = np.rint(scaled, out=scaled)
        # A number times the unit is rounded once more before it is subtracted.
        scaled *= unit
        error[part] = lengths(np.subtract(vectors[part], scaled, out=scaled))
    return numbers, float(unit), length, error + 4 * _UNIT * length


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Return numbers of float64 [V] that are at least the lengths of float32 `vectors` [V,D], by little.

    The squares are added up in float32, and those below its smallest number may be lost.
    """
    width = vectors.shape[1]
    squares = np.einsum("vd,vd->v", vectors, vectors).astype(np.float64)
    return np.sqrt(squares) * (1 + (width + 8) * 2 * _UNIT) + width**0.5 * 2.0**-62
