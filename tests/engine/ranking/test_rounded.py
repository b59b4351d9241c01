"""Inner products are rounded once: they are the float32 numbers nearest to the exact sums."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from engine.ranking import rounded
from engine.ranking.rounded import PairScores, rounded_pairs, rounded_products
from engine.runtime import flush_subnormals

RANDOM = np.random.default_rng(0)
HALF = 2.0**-12  # its square is half a unit in the last place of 1


def nearest(a: np.ndarray, b: np.ndarray) -> float:
    """Return the inner product of two vectors, rounded to float32 from whole fractions."""
    exact = sum((Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True)), Fraction(0))
    if abs(exact) < Fraction(2) ** -126:
        return 0.0
    middle = np.float32(float(exact))
    around = [np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))]
    distance = lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1)  # noqa: E731
    return float(min(around, key=distance))  # of two that are as near, the even one


CASES = {
    "normal": RANDOM.standard_normal((12, 300)),
    "long and short": RANDOM.standard_normal((12, 60)) * 10.0 ** RANDOM.uniform(-15, 15, (12, 1)),
    "numbers of all sizes": RANDOM.standard_normal((12, 60)) * 10.0 ** RANDOM.uniform(-9, 9, (12, 60)),
    "whole numbers": RANDOM.integers(-2, 3, (12, 9)),
    "zeros and axes": np.concatenate([np.zeros((3, 9)), np.eye(9)]),
    "sums of subnormal size": RANDOM.standard_normal((12, 5)) * 1e-19,
    "subnormal numbers": RANDOM.standard_normal((12, 5)) * 1e-40,
    "nearly orthogonal": np.stack([[1, -1 + k * 2.0**-23, 1, -1] * 8 for k in range(12)]),
    # 1 + HALF^2 lies halfway between two float32 numbers, and a last term says on which side.
    "halfway": np.array(
        [[1, HALF, HALF * side, 2.0**-60] for side in (1, 0, -1, 2, 3)] + [[1, HALF, 0, 0], [1, -HALF, 0, 0]]
    ),
}


@pytest.mark.parametrize("flushed", [False, True], ids=["as NumPy", "subnormal results are zeros"])
@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_nearest_numbers(case: str, flushed: bool) -> None:
    with np.errstate(under="ignore"):
        vectors = CASES[case].astype(np.float32)
    expected = np.array([[nearest(a, b) for b in vectors] for a in vectors], np.float32)
    row, column = np.divmod(np.arange(expected.size), len(vectors))
    backwards = np.arange(len(vectors))[::-1]
    scores = PairScores(vectors, vectors[::-1], backwards)
    with ThreadPoolExecutor(1, initializer=flush_subnormals if flushed else None) as pool:
        whole = pool.submit(rounded_products, vectors, vectors).result()
        pairs = pool.submit(rounded_pairs, vectors[row], vectors[column]).result()
        by_row, by_item = (pool.submit(scores, *each).result() for each in ((row, column), (column, row)))
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(pairs.reshape(expected.shape), expected)
    np.testing.assert_array_equal(by_row.reshape(expected.shape), expected)
    np.testing.assert_array_equal(by_item.reshape(expected.shape), expected.T)


@pytest.mark.parametrize("case", CASES)
def test_sums_in_two_parts_are_as_near_as_they_say(case: str) -> None:
    with np.errstate(under="ignore"):
        vectors = CASES[case].astype(np.float32).astype(np.float64)
    terms = (vectors[:, None] * vectors).reshape(-1, vectors.shape[1])
    sums, errors = rounded._added_in_two_parts(terms)
    for term, found, error in zip(terms, sums, errors, strict=True):
        exact = sum(map(Fraction, term.tolist()), Fraction(0))
        assert abs(Fraction(found) - exact) <= Fraction(error)
        assert error <= 2.0**-52 * abs(found) + 2.0**-80 * np.abs(term).max(), "no bound of plain sums"


def test_what_is_not_finite_stays_so() -> None:
    vectors = np.array([[np.nan, 1], [np.inf, 1], [1, 1], [3e38, 3e38]], np.float32)
    found = rounded_products(vectors, np.ones((1, 2), np.float32))[:, 0]
    np.testing.assert_array_equal(found, np.float32([np.nan, np.inf, 2, np.inf]))


def test_products_do_not_depend_on_their_neighbours() -> None:
    a, b = (RANDOM.standard_normal((count, 515)).astype(np.float32) for count in (131, 77))
    whole = rounded_products(a, b)
    np.testing.assert_array_equal(rounded_products(a[40:43], b[5:]), whole[40:43, 5:])
    np.testing.assert_array_equal(rounded_products(b, a).T, whole)


def test_nothing_times_something_is_nothing() -> None:
    assert rounded_products(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32)).shape == (0, 2)
    assert not rounded_pairs(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)).size
