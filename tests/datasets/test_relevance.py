"""A map of right pairs answers as loops over a matrix of booleans do."""

import numpy as np
import pytest

from datasets.relevance import Relevance, own_captions

IMAGES, CAPTIONS = 7, 11


@pytest.fixture
def right() -> np.ndarray:
    """Booleans [images, captions], some rows and columns of which have none."""
    found = np.random.default_rng(0).random((IMAGES, CAPTIONS)) < 0.3
    found[2], found[:, 5] = False, False
    return found


def map_of(right: np.ndarray, grades: np.ndarray | None = None) -> Relevance:
    images, captions = np.nonzero(right)
    order = np.random.default_rng(1).permutation(len(images))
    return Relevance.of(
        right.shape, images[order], captions[order], None if grades is None else grades[right][order]
    )


def matrix_of(relevance: Relevance) -> np.ndarray:
    found = np.zeros(relevance.shape, bool)
    found[relevance.images, relevance.captions] = True
    return found


def test_counts_and_lists(right):
    relevance = map_of(right)
    np.testing.assert_array_equal(matrix_of(relevance), right)
    assert relevance.of_images.tolist() == right.sum(axis=1).tolist()
    assert relevance.of_captions.tolist() == right.sum(axis=0).tolist()
    for row, captions in zip(right, relevance.lists(), strict=True):
        assert captions[captions >= 0].tolist() == np.flatnonzero(row).tolist()


def test_repeated_pairs_count_once():
    relevance = Relevance.of((2, 3), [1, 0, 1], [2, 1, 2], [3.0, 1.0, 9.0])
    assert (relevance.images.tolist(), relevance.captions.tolist()) == ([0, 1], [1, 2])
    assert relevance.grades.tolist() == [1.0, 3.0]


def test_some_images_and_captions_in_any_order(right):
    images, captions = np.array([4, 0, 6, 2]), np.array([9, 1, 5, 3, 8])
    found = np.zeros((4, 5), bool)
    found[map_of(right).among(images, captions)] = True
    np.testing.assert_array_equal(found, right[np.ix_(images, captions)])


def test_single_pairs_and_none(right):
    relevance = map_of(right)
    rows, columns = np.arange(IMAGES)[:, None], np.arange(CAPTIONS)
    np.testing.assert_array_equal(relevance.are_right(rows, columns), right)
    assert not relevance.are_right(np.array([-1]), np.array([1])).any()
    assert not relevance.are_right(np.array([1]), np.array([-1])).any()
    assert not Relevance.of((2, 2), [], []).are_right(np.zeros(3, int), np.ones(3, int)).any()


def test_turned_with_grades(right):
    grades = np.random.default_rng(2).integers(1, 6, right.shape).astype(float)
    turned = map_of(right, grades).turned
    np.testing.assert_array_equal(matrix_of(turned), right.T)
    np.testing.assert_array_equal(turned.grades, grades.T[right.T])


def test_folds_captions_and_first_images(right):
    grades = np.random.default_rng(2).integers(1, 6, right.shape).astype(float)
    relevance = map_of(right, grades)
    image_fold, caption_fold = np.arange(IMAGES) % 2, np.arange(CAPTIONS) % 2
    competing = image_fold[:, None] == caption_fold
    np.testing.assert_array_equal(matrix_of(relevance.within(image_fold, caption_fold)), right & competing)
    kept = np.array([8, 2, 10])
    some = relevance.with_captions(kept)
    np.testing.assert_array_equal(matrix_of(some), right[:, kept])
    np.testing.assert_array_equal(some.grades, grades[:, kept][right[:, kept]])
    np.testing.assert_array_equal(matrix_of(relevance.with_images(3)), right[:3])


def test_groups_and_own_captions():
    image_groups, caption_groups = np.array([3, 1, 3]), np.array([1, 3, 7, 3])
    np.testing.assert_array_equal(
        matrix_of(Relevance.of_groups(image_groups, caption_groups)), image_groups[:, None] == caption_groups
    )
    assert matrix_of(own_captions(np.array([1, 0, -1, 1]), 2)).astype(int).tolist() == [
        [0, 1, 0, 0],
        [1, 0, 0, 1],
    ]
