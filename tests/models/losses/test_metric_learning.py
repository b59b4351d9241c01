"""Losses of metric learning against plain loops, and what they do with batches that lack pairs."""

from collections.abc import Callable

import numpy as np
import paddle
import pytest

from models.losses.metric_learning import (
    MinedLoss,
    SoftmaxLoss,
    TripletLoss,
    adaptive_margin,
    adaptive_quadruplet_loss,
    batch_hard_loss,
    margin_sample_mining_loss,
    quadruplet_loss,
    semi_hard_loss,
    smoothed_softmax_loss,
    squared_distances,
)

LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3])
POINTS = np.random.RandomState(1).standard_normal([len(LABELS), 3])
EVERY = range(len(LABELS))


def looped_distances(points: np.ndarray) -> list[list[float]]:
    return [
        [sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for other in points] for one in points
    ]


def positives(image: int) -> list[int]:
    return [other for other in EVERY if other != image and LABELS[other] == LABELS[image]]


def negatives(image: int) -> list[int]:
    return [other for other in EVERY if LABELS[other] != LABELS[image]]


def looped_batch_hard(d: list[list[float]]) -> float:
    terms = [
        max(0.0, max(d[i][j] for j in positives(i)) - min(d[i][k] for k in negatives(i)) + 0.3)
        for i in EVERY
        if positives(i)
    ]
    return sum(terms) / len(terms)


def looped_semi_hard(d: list[list[float]]) -> float:
    terms = []
    for i in EVERY:
        for j in positives(i):
            farther = [d[i][k] for k in negatives(i) if d[i][k] > d[i][j]]
            rival = min(farther) if farther else max(d[i][k] for k in negatives(i))
            terms.append(max(0.0, d[i][j] - rival + 0.3))
    return sum(terms) / len(terms)


def looped_quadruplet(d: list[list[float]], first: float = 1.0, second: float = 0.5) -> float:
    with_anchor, apart = [], []
    for i in EVERY:
        for j in positives(i):
            with_anchor += [max(0.0, d[i][j] - d[i][k] + first) for k in negatives(i)]
            apart += [
                max(0.0, d[i][j] - d[lone][k] + second)
                for lone in negatives(i)
                for k in negatives(i)
                if LABELS[lone] != LABELS[k]
            ]
    return sum(with_anchor) / len(with_anchor) + sum(apart) / len(apart)


def looped_mean_gap(d: list[list[float]]) -> float:
    between = [d[i][k] for i in EVERY for k in negatives(i)]
    within = [d[i][j] for i in EVERY for j in positives(i)]
    return sum(between) / len(between) - sum(within) / len(within)


def looped_sample_mining(d: list[list[float]]) -> float:
    farthest = max(d[i][j] for i in EVERY for j in positives(i))
    return max(0.0, farthest - min(d[i][k] for i in EVERY for k in negatives(i)) + 0.3)


CASES = {
    "batch_hard": (lambda d, y: batch_hard_loss(d, y, 0.3), looped_batch_hard),
    "semi_hard": (lambda d, y: semi_hard_loss(d, y, 0.3), looped_semi_hard),
    "quadruplet": (lambda d, y: quadruplet_loss(d, y, 1.0, 0.5), looped_quadruplet),
    "sample_mining": (lambda d, y: margin_sample_mining_loss(d, y, 0.3), looped_sample_mining),
}


def numeric_gradient(function: Callable[[np.ndarray], float], points: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(points)
    for index in np.ndindex(*points.shape):
        step = np.zeros_like(points)
        step[index] = 1e-6
        gradient[index] = (function(points + step) - function(points - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_plain_loops(name: str) -> None:
    ours, looped = CASES[name]
    points = paddle.to_tensor(POINTS, stop_gradient=False)
    loss = ours(squared_distances(points), paddle.to_tensor(LABELS))
    loss.backward()
    assert float(loss) == pytest.approx(looped(looped_distances(POINTS)))
    expected = numeric_gradient(lambda moved: looped(looped_distances(moved)), POINTS)
    np.testing.assert_allclose(points.grad.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 5.0], ids=["classes mixed", "classes apart"])
def test_the_adaptive_margin_is_a_constant_and_never_negative(spread: float) -> None:
    moved = POINTS + spread * LABELS[:, None]
    points = paddle.to_tensor(moved, stop_gradient=False)
    distances, labels = squared_distances(points), paddle.to_tensor(LABELS)
    d = looped_distances(moved)
    margin = max(0.0, looped_mean_gap(d))
    assert float(adaptive_margin(distances, labels)) == pytest.approx(margin)
    loss = adaptive_quadruplet_loss(distances, labels)
    assert float(loss) == pytest.approx(looped_quadruplet(d, margin, margin / 2))
    loss.backward()
    expected = numeric_gradient(
        lambda other: looped_quadruplet(looped_distances(other), margin, margin / 2), moved
    )
    np.testing.assert_allclose(points.grad.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("labels", [[4, 4, 4], [1, 2, 3]], ids=["one class", "no positives"])
def test_a_batch_without_pairs_costs_nothing_and_has_a_gradient_of_zero(name: str, labels: list[int]) -> None:
    points = paddle.to_tensor(POINTS[:3], stop_gradient=False)
    loss = CASES[name][0](squared_distances(points), paddle.to_tensor(labels))
    loss.backward()
    assert float(loss) == 0.0
    assert not points.grad.numpy().any()


def test_equal_embeddings_cost_one_margin_and_their_gradient_is_finite() -> None:
    points = paddle.ones([8, 3])
    points.stop_gradient = False
    loss = MinedLoss("batch_hard", CASES["batch_hard"][0])
    value = loss({"image": points}, {"label": paddle.to_tensor(LABELS)}, 0)["batch_hard"]
    value.backward()
    assert float(value) == pytest.approx(0.3)
    assert np.isfinite(points.grad.numpy()).all()


def test_triplets_are_read_from_rows_and_do_not_depend_on_length() -> None:
    rows = POINTS[:6]
    unit = [row / np.sqrt(sum(value**2 for value in row)) for row in rows]
    d = looped_distances(np.array(unit))
    expected = (max(0.0, d[0][1] - d[0][2] + 0.1) + max(0.0, d[3][4] - d[3][5] + 0.1)) / 2
    for length in (1.0, 7.0):
        found = TripletLoss(0.1)({"image": paddle.to_tensor(length * rows)}, {}, 0)
        assert float(found["triplet"]) == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_with_label_smoothing(smoothing: float) -> None:
    logits, labels = POINTS, np.array([0, 1, 2, 0, 1, 2, 0, 1])
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = np.log(sum(np.exp(value) for value in row))
        for place, value in enumerate(row):
            target = smoothing / 3 + (1 - smoothing) * (place == label)
            total -= target * (value - log_sum)
    found = smoothed_softmax_loss(paddle.to_tensor(logits), paddle.to_tensor(labels), smoothing)
    assert float(found) == pytest.approx(total / len(labels))


def test_the_classifier_belongs_to_the_loss() -> None:
    loss = SoftmaxLoss(embed_dim=3, num_classes=4, smoothing=0.1)
    assert {name: parameter.shape for name, parameter in loss.named_parameters()} == {
        "classifier.weight": [3, 4],
        "classifier.bias": [4],
    }
    image = paddle.to_tensor(POINTS.astype("float32"))
    found = loss({"image": image}, {"label": paddle.to_tensor(LABELS)}, epoch=0)
    found["softmax"].backward()
    assert float(loss.classifier.weight.grad.abs().sum()) > 0
