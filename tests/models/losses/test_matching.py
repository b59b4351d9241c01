import math

import numpy as np
import paddle
import pytest

from models.losses.matching import (
    MatchingLoss,
    match_binary,
    match_choice,
    match_cross_entropy,
    match_regression,
)
from tests.closeness import assert_close, largest

MATCH = [1, 0, 0, 1, 0]
LOGITS = np.random.default_rng(0).normal(0, 2, (5, 2)).astype(np.float32)

ROUNDINGS = 10 + 6 + 5  # of a softmax of up to 6 and its logarithm, then a sum over 5 pairs


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_cross_entropy_by_loops():
    total = 0.0
    for logits, match in zip(LOGITS, MATCH, strict=True):
        total -= math.log(math.exp(logits[match]) / sum(math.exp(value) for value in logits))
    found = match_cross_entropy(paddle.to_tensor(LOGITS), paddle.to_tensor(MATCH))
    assert_close(found.numpy(), total / 5, ROUNDINGS, largest([LOGITS]))


@pytest.mark.parametrize("labels", [1, 2])
def test_binary_by_loops(labels):
    total = 0.0
    for logits, match in zip(LOGITS[:, :labels], MATCH, strict=True):
        for label, value in enumerate(logits):
            target = match if labels == 1 else int(label == match)
            total -= math.log(sigmoid(value) if target else 1 - sigmoid(value))
    found = match_binary(paddle.to_tensor(LOGITS[:, :labels]), paddle.to_tensor(MATCH))
    assert_close(found.numpy(), total / 5, ROUNDINGS, largest([LOGITS]))


def test_regression_by_loops():
    total = sum((float(logits[0]) - match) ** 2 for logits, match in zip(LOGITS, MATCH, strict=True))
    found = match_regression(paddle.to_tensor(LOGITS[:, :1]), paddle.to_tensor(MATCH))
    assert_close(found.numpy(), total / 5, ROUNDINGS)


@pytest.mark.parametrize("labels", [1, 2])
def test_choice_by_loops(labels):
    logits = np.random.default_rng(1).normal(0, 2, (6, labels)).astype(np.float32)  # 2 right, 4 wrong pairs
    values = [float(row[1]) - float(row[0]) if labels == 2 else float(row[0]) for row in logits]
    total = 0.0
    for right in range(2):
        chosen_from = values[right], values[2 + right], values[4 + right]
        total -= math.log(math.exp(values[right]) / sum(map(math.exp, chosen_from)))
    found = match_choice(paddle.to_tensor(logits), paddle.to_tensor([1, 1, 0, 0, 0, 0]))
    assert_close(found.numpy(), total / 2, ROUNDINGS, 2 * largest([logits]))


def test_the_trainer_gets_it_by_name():
    logits, match = paddle.to_tensor(LOGITS), paddle.to_tensor(MATCH)
    terms = MatchingLoss(match_binary)({"logits": logits}, {"match": match}, 0)
    assert list(terms) == ["match"]
    assert float(terms["match"]) == float(match_binary(logits, match))


def test_guessed_words_add_their_weighted_cross_entropy():
    random = np.random.default_rng(0)
    guesses, said = random.standard_normal((3, 6)).astype(np.float32), [4, 0, 4]
    outputs = {"logits": paddle.to_tensor(LOGITS), "word_logits": paddle.to_tensor(guesses)}
    batch = {"match": paddle.to_tensor(MATCH), "masked_id": paddle.to_tensor(said)}
    terms = MatchingLoss(match_cross_entropy, word_weight=0.5)(outputs, batch, 0)
    expected = -sum(
        float(row[word]) - math.log(sum(map(math.exp, row))) for row, word in zip(guesses, said, strict=True)
    )
    assert list(terms) == ["match", "words"]
    assert_close(terms["words"].numpy(), 0.5 * expected / 3, ROUNDINGS, largest([guesses]))
