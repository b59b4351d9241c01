"""Losses recomputed pair by pair with plain loops, and their gradients by finite differences."""

import math

import numpy as np
import paddle
import pytest

from models.losses.ranking import ContrastiveLoss, HingeLoss, contrastive_loss, duplicate_pairs, hinge_loss
from tests.closeness import assert_close

SCORES = np.random.RandomState(0).uniform(-1, 1, [6, 6])
IGNORED = np.zeros([6, 6], dtype=bool)
IGNORED[0, 3] = IGNORED[3, 0] = IGNORED[4, 1] = True


def looped_hinge(scores: np.ndarray, margin: float, hard: bool, ignored: np.ndarray) -> float:
    count = len(scores)
    total = 0.0
    for own in range(count):
        others = [other for other in range(count) if other != own]
        wrong_captions = [
            max(0.0, margin + scores[own, other] - scores[own, own])
            for other in others
            if not ignored[own, other]
        ]
        wrong_images = [
            max(0.0, margin + scores[other, own] - scores[own, own])
            for other in others
            if not ignored[other, own]
        ]
        combine = max if hard else sum
        total += combine(wrong_captions) + combine(wrong_images)
    return total


def looped_contrastive(scores: np.ndarray, scale: float, ignored: np.ndarray) -> float:
    count = len(scores)
    total = 0.0
    for own in range(count):
        row = sum(math.exp(scale * scores[own, j]) for j in range(count) if not ignored[own, j])
        column = sum(math.exp(scale * scores[i, own]) for i in range(count) if not ignored[i, own])
        probability = math.exp(scale * scores[own, own])
        total -= (math.log(probability / row) + math.log(probability / column)) / 2
    return total / count


def numeric_gradient(function, scores: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(scores)
    for index in np.ndindex(*scores.shape):
        step = np.zeros_like(scores)
        step[index] = 1e-6
        gradient[index] = (function(scores + step) - function(scores - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("ignored", [np.zeros_like(IGNORED), IGNORED], ids=["all pairs", "masked"])
@pytest.mark.parametrize("hard", [False, True], ids=["sum", "hardest"])
def test_hinge_value_and_gradient(hard: bool, ignored: np.ndarray) -> None:
    scores = paddle.to_tensor(SCORES, stop_gradient=False)
    loss = hinge_loss(scores, 0.2, hard, paddle.to_tensor(ignored))
    loss.backward()
    assert float(loss) == pytest.approx(looped_hinge(SCORES, 0.2, hard, ignored))
    expected = numeric_gradient(lambda s: looped_hinge(s, 0.2, hard, ignored), SCORES)
    np.testing.assert_allclose(scores.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("ignored", [np.zeros_like(IGNORED), IGNORED], ids=["all pairs", "masked"])
def test_contrastive_value_and_gradient(ignored: np.ndarray) -> None:
    scores = paddle.to_tensor(SCORES, stop_gradient=False)
    loss = contrastive_loss(scores, 5.0, paddle.to_tensor(ignored))
    loss.backward()
    assert float(loss) == pytest.approx(looped_contrastive(SCORES, 5.0, ignored))
    expected = numeric_gradient(lambda s: looped_contrastive(s, 5.0, ignored), SCORES)
    np.testing.assert_allclose(scores.grad.numpy(), expected, atol=1e-7)


def test_losses_without_a_mask_count_every_pair() -> None:
    scores = paddle.to_tensor(SCORES)
    nothing = np.zeros_like(IGNORED)
    assert float(hinge_loss(scores, 0.2, True)) == pytest.approx(looped_hinge(SCORES, 0.2, True, nothing))
    assert float(contrastive_loss(scores, 5.0)) == pytest.approx(looped_contrastive(SCORES, 5.0, nothing))


def test_hardest_negatives_of_equal_scores_share_one_gradient() -> None:
    scores = paddle.zeros([4, 4])
    scores.stop_gradient = False
    hinge_loss(scores, 0.2, hard_negative=True).backward()
    assert float(scores.grad.abs().sum()) == pytest.approx(4 * 4)  # 8 hinges, each +1 and -1


def test_collapsed_embeddings_lose_two_margins_a_pair() -> None:
    assert_close(hinge_loss(paddle.ones([128, 128]), 0.2, hard_negative=True).numpy(), 51.2, 2 * 128)


def test_duplicates_share_an_image_or_a_sentence() -> None:
    image_id = [7, 8, 7, 9]
    sentence_id = [1, 2, 3, 2]
    found = duplicate_pairs(paddle.to_tensor(image_id), paddle.to_tensor(sentence_id)).numpy()
    for i in range(4):
        for j in range(4):
            same = image_id[i] == image_id[j] or sentence_id[i] == sentence_id[j]
            assert found[i, j] == (i != j and same)


def test_a_batch_of_one_image_has_nothing_to_learn_from_its_duplicates() -> None:
    batch = {"image_id": paddle.to_tensor([3, 3, 3]), "sentence_id": paddle.to_tensor([0, 1, 2])}
    outputs = {"scores": paddle.rand([3, 3])}
    for hard in (False, True):
        loss = HingeLoss(margin=0.2, hard_negative=hard, sum_epochs=0, mask_duplicates=True)
        assert float(loss(outputs, batch, epoch=0)["hinge"]) == 0.0
    loss = ContrastiveLoss(temperature=0.07, mask_duplicates=True)
    # Scores of up to 1 / 0.07 are taken from one another.
    assert_close(loss(outputs, batch, epoch=0)["contrastive"].numpy(), 0.0, 4, scale=1 / 0.07)


def test_hinge_turns_from_sum_to_hardest_after_its_epochs() -> None:
    batch = {"image_id": paddle.arange(6), "sentence_id": paddle.arange(6)}
    outputs = {"scores": paddle.to_tensor(SCORES)}
    loss = HingeLoss(margin=0.2, hard_negative=True, sum_epochs=2, mask_duplicates=True)
    values = [float(loss(outputs, batch, epoch)["hinge"]) for epoch in range(4)]
    nothing = np.zeros_like(IGNORED)
    summed, hardest = (looped_hinge(SCORES, 0.2, hard, nothing) for hard in (False, True))
    assert values == pytest.approx([summed, summed, hardest, hardest])


def test_temperature_starts_as_configured_is_learned_and_stays_bounded() -> None:
    loss = ContrastiveLoss(temperature=0.07, mask_duplicates=False)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]
    assert float(loss.log_scale.exp()) == pytest.approx(1 / 0.07)
    outputs = {"scores": paddle.to_tensor(SCORES.astype("float32"))}
    loss.log_scale.set_value(paddle.to_tensor(9.0))
    value = loss(outputs, {}, epoch=0)["contrastive"]
    value.backward()
    assert float(loss.log_scale.exp()) == pytest.approx(100.0, rel=1e-5)
    assert float(loss.log_scale.grad.abs()) > 0  # it can come back from the bound
