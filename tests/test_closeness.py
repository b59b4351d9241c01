"""The bound on rounding: what it lets pass, and what it does not."""

import numpy as np
import pytest

from tests.closeness import SINGLE, assert_close


@pytest.mark.parametrize("count", [10, 1000, 100_000])
def test_a_sum_in_any_order_is_close_and_a_wrong_one_is_not(count):
    """Also where the terms cancel, and a relative bound would ask for digits that nobody has."""
    terms = np.random.default_rng(0).standard_normal((50, count // 2)).astype(np.float32)
    terms = np.concatenate([terms, -terms + np.float32(1e-6)], axis=1)
    exact = terms.astype(np.float64).sum(axis=1)
    one_by_one = np.add.accumulate(terms, axis=1)
    scale = np.abs(one_by_one).max(axis=1)
    assert_close(one_by_one[:, -1], exact, count, scale)
    assert_close(terms.sum(axis=1), one_by_one[:, -1], count, scale)
    with pytest.raises(AssertionError, match="times the bound of"):
        assert_close(one_by_one[:, -1], exact + 0.01 * scale, count, scale)


def test_few_roundings_have_a_certain_bound():
    assert_close(np.float32(1 + 2 * SINGLE), 1.0, terms=2)
    with pytest.raises(AssertionError):
        assert_close(np.float32(1 + 4 * SINGLE), 1.0, terms=2)


def test_what_is_not_a_number_and_other_shapes_are_not_close():
    with pytest.raises(AssertionError, match="1 are not a number"):
        assert_close(np.array([1, np.nan], np.float32), np.ones(2), terms=10)
    with pytest.raises(AssertionError, match="shapes"):
        assert_close(np.ones((2, 1)), np.ones(2), terms=10)
