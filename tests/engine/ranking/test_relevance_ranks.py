"""Ranks by a map of right pairs are those that loops count from the whole matrix of scores."""

import numpy as np
import pytest

from datasets.relevance import Relevance
from engine.ranking.counter import TIE_RULES, lower_index_ranks, true_in_rows
from engine.ranking.ranks import Question, rank_counters, row_counter

IMAGES, CAPTIONS, WIDTH = 23, 61, 4


def rank_by_loops(scores, right, competing, tie_rule):
    ranks = []
    for row, is_right, competes in zip(scores, right, competing, strict=True):
        best = max(
            (score for score, hit in zip(row, is_right & competes, strict=True) if hit), default=-np.inf
        )
        rivals = [
            score for score, hit, there in zip(row, is_right, competes, strict=True) if there and not hit
        ]
        against, favour = sum(score >= best for score in rivals), sum(score > best for score in rivals)
        ranks.append({"against": against, "favour": favour, "average": (against + favour) / 2}[tie_rule])
    return ranks


@pytest.mark.parametrize("tie_rule", TIE_RULES)
@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("block_size", [5, 100])
def test_any_map(tie_rule, folds, block_size):
    random = np.random.default_rng(folds)
    image = random.integers(-1, 2, (IMAGES, WIDTH)).astype(np.float32)  # many scores are equal
    text = random.integers(-1, 2, (CAPTIONS - 20, WIDTH)).astype(np.float32)
    sentence = random.integers(0, len(text), CAPTIONS)
    right = random.random((IMAGES, CAPTIONS)) < 0.06
    right[4], right[:, 7] = False, False  # queries without a right item
    image_fold = np.sort(random.integers(0, folds, IMAGES))
    caption_fold = random.integers(0, folds, CAPTIONS)
    relevance = Relevance.of(right.shape, *np.nonzero(right))
    scores, competing = image @ text[sentence].T, image_fold[:, None] == caption_fold
    ignored = ~right & (random.random(right.shape) < 0.1)
    questions = [
        Question(relevance, image_fold, caption_fold),
        Question(
            Relevance.of(right.shape, *np.nonzero(right)),
            ignored=Relevance.of(right.shape, *np.nonzero(ignored)),
        ),
    ]
    embedded = rank_counters(image, text, questions, "cosine", block_size, tie_rule, sentence)
    turned = rank_counters(image, text, questions[::-1], "cosine", block_size, tie_rule, sentence)
    alone = rank_counters(image, text, questions[0], "cosine", block_size, tie_rule, sentence)
    stored = [
        (row_counter(scores, each, tie_rule), row_counter(scores.T, each.turned(), tie_rule))
        for each in questions
    ]
    for found, there in (
        (embedded[0], competing),
        (turned[1], competing),
        (alone[0], competing),
        (stored[0], competing),
        (embedded[1], ~ignored),
        (turned[0], ~ignored),
        (stored[1], ~ignored),
    ):
        assert found[0].ranks().tolist() == rank_by_loops(scores, right, there, tie_rule)
        assert found[1].ranks().tolist() == rank_by_loops(scores.T, right.T, there.T, tie_rule)


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 2047), (300, 70), (2, 0)])
def test_true_values_are_counted_in_rows_whatever_the_memory(shape):
    flags = np.random.default_rng(0).random(shape) < 0.9
    expected = [sum(map(int, row)) for row in flags]
    for layout in (flags, np.asfortranarray(flags), flags[::-1][::-1]):
        assert true_in_rows(layout).tolist() == expected


def test_the_lower_index_wins():
    scores = np.array([[0.5, 0.7, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]])
    relevant = np.array([[False, False, False, True, False], [False, True, True, False, False]])
    assert lower_index_ranks(scores, relevant).tolist() == [3, 1]
