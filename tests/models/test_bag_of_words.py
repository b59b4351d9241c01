"""The floor: bags of words hold what occurs, and the ridge regression is the one of its definition."""

import numpy as np
import pytest

from models.bag_of_words import RidgeRegression, bags_of_words


@pytest.fixture
def pairs():
    random = np.random.default_rng(3)
    bags = (random.random((40, 6)) < 0.3).astype(np.float32)
    features = bags @ random.standard_normal((6, 4)) + 2 + 0.1 * random.standard_normal((40, 4))
    return bags, features.astype(np.float32)


def test_a_bag_holds_the_words_before_a_captions_end_once():
    token_ids, text_len = np.array([[1, 3, 3, 0], [2, 0, 0, 0], [4, 1, 2, 3]]), np.array([3, 1, 4])
    expected = np.zeros((3, 5))
    for row, (ids, length) in enumerate(zip(token_ids, text_len, strict=True)):
        for place in range(length):
            expected[row, ids[place]] = 1
    np.testing.assert_array_equal(bags_of_words(token_ids, text_len, 5), expected)


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_the_fit_is_the_least_squares_of_rows_that_hold_the_penalty(pairs, penalty):
    bags, features = pairs
    regression = RidgeRegression(6, 4)
    regression.add(bags[:25], features[:25])
    regression.add(bags[25:], features[25:])
    model = regression.fit(penalty)
    # ||Y - XW||^2 + penalty ||W||^2 is the plain least squares of X over sqrt(penalty) I, and Y over 0.
    x, y = (part - part.mean(axis=0, dtype=np.float64) for part in pairs)
    stacked = np.concatenate([x, np.sqrt(penalty) * np.eye(6)]), np.concatenate([y, np.zeros((6, 4))])
    expected = np.linalg.lstsq(*stacked, rcond=None)[0]
    np.testing.assert_allclose(model.weights, expected, rtol=1e-4, atol=1e-5)  # float32 products of 25 rows
    centred = (bags[7] - bags.mean(axis=0)) @ expected + features.mean(axis=0)
    np.testing.assert_allclose(model.predict(bags[7:8])[0], centred, rtol=1e-4, atol=1e-5)


def test_a_heavy_penalty_leaves_the_mean(pairs):
    bags, features = pairs
    regression = RidgeRegression(6, 4)
    regression.add(bags, features)
    np.testing.assert_allclose(regression.fit(1e9).predict(bags[:1])[0], features.mean(axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="penalty: expected a number above 0, got 0"):
        regression.fit(0)
