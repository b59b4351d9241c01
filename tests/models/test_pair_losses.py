import math

import numpy as np
import paddle
import pytest

from models.pair_losses import PairLoss, match_binary, match_cross_entropy, match_regression

MATCH = [1, 0, 0, 1, 0]
LOGITS = np.random.default_rng(0).normal(0, 2, (5, 2)).astype(np.float32)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_cross_entropy_by_loops():
    total = 0.0
    for logits, match in zip(LOGITS, MATCH, strict=True):
        total -= math.log(math.exp(logits[match]) / sum(math.exp(value) for value in logits))
    found = float(match_cross_entropy(paddle.to_tensor(LOGITS), paddle.to_tensor(MATCH)))
    assert found == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize("labels", [1, 2])
def test_binary_by_loops(labels):
    total = 0.0
    for logits, match in zip(LOGITS[:, :labels], MATCH, strict=True):
        for label, value in enumerate(logits):
            target = match if labels == 1 else int(label == match)
            total -= math.log(sigmoid(value) if target else 1 - sigmoid(value))
    found = float(match_binary(paddle.to_tensor(LOGITS[:, :labels]), paddle.to_tensor(MATCH)))
    assert found == pytest.approx(total / 5, rel=1e-5)


def test_regression_by_loops():
    total = sum((logits[0] - match) ** 2 for logits, match in zip(LOGITS, MATCH, strict=True))
    found = float(match_regression(paddle.to_tensor(LOGITS[:, :1]), paddle.to_tensor(MATCH)))
    assert found == pytest.approx(total / 5, rel=1e-5)


def test_the_trainer_gets_it_by_name():
    logits, match = paddle.to_tensor(LOGITS), paddle.to_tensor(MATCH)
    terms = PairLoss(match_binary)({"logits": logits}, {"match": match}, 0)
    assert list(terms) == ["match"]
    assert float(terms["match"]) == float(match_binary(logits, match))
