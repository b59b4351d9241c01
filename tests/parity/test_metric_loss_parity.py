"""Losses of metric learning against the stored values and gradients of other implementations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor

from models.encoders import l2norm
from models.losses.metric_learning import (
    TripletLoss,
    adaptive_margin,
    adaptive_quadruplet_loss,
    batch_hard_loss,
    margin_sample_mining_loss,
    quadruplet_loss,
    smoothed_softmax_loss,
    squared_distances,
)

Loss = Callable[[Tensor, Tensor], Tensor]
ON_DISTANCES: dict[str, Loss] = {
    **{f"batchhard_{{}}_sq_m{m}_mean": lambda d, y, m=m: batch_hard_loss(d, y, m) for m in (0.1, 0.3, 1.0)},
    **{
        f"quadall_{{}}_sq_a{a}_b{b}_mean": lambda d, y, a=a, b=b: quadruplet_loss(d, y, a, b)
        for a, b in ((1.0, 0.5), (0.3, 0.15))
    },
    "quadadaptive_{}_sq_mean": adaptive_quadruplet_loss,
}
CASES = {name.format(norm): (norm, loss) for name, loss in ON_DISTANCES.items() for norm in ("raw", "l2")}
CASES |= {
    f"paddlecv_quad_m{m}": ("l2", lambda d, y, m=m: margin_sample_mining_loss(d, y, m)) for m in (0.1, 0.3)
}


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "fixtures" / "metric" / "losses.npz"))


def check(stored: dict[str, np.ndarray], name: str, loss: Callable[[Tensor], Tensor]) -> None:
    embeddings = paddle.to_tensor(stored["embeddings"], stop_gradient=False)
    value = loss(embeddings)
    value.backward()
    assert float(value) == pytest.approx(float(stored[name]), rel=2e-6)
    scale = np.abs(stored[f"grad.{name}"]).max()
    np.testing.assert_allclose(embeddings.grad.numpy(), stored[f"grad.{name}"], atol=5e-6 * scale)


@pytest.mark.parametrize("name", CASES)
def test_losses_on_distances(stored: dict[str, np.ndarray], name: str) -> None:
    norm, loss = CASES[name]
    labels = paddle.to_tensor(stored["labels"])
    check(stored, name, lambda rows: loss(squared_distances(l2norm(rows) if norm == "l2" else rows), labels))


@pytest.mark.parametrize("norm", ["raw", "l2"])
def test_adaptive_margin(stored: dict[str, np.ndarray], norm: str) -> None:
    rows = paddle.to_tensor(stored["embeddings"])
    distances = squared_distances(l2norm(rows) if norm == "l2" else rows)
    margin = adaptive_margin(distances, paddle.to_tensor(stored["labels"]))
    assert float(margin) == pytest.approx(float(stored[f"quad_adaptive_alpha_{norm}"]), rel=2e-6)


def test_triplets_in_rows(stored: dict[str, np.ndarray]) -> None:
    """The stored value is that of the first 24 rows, as eight triplets."""
    name = "paddlecv_triplet_rows_apn_m0.1_mean"
    check(stored, name, lambda rows: TripletLoss(0.1)({"image": rows[:24]}, {}, 0)["triplet"])


@pytest.mark.parametrize(("name", "smoothing"), [("softmax_ce_mean", 0.0), ("softmax_ce_ls0.1_mean", 0.1)])
def test_softmax(stored: dict[str, np.ndarray], name: str, smoothing: float) -> None:
    weight, bias = paddle.to_tensor(stored["softmax_W"]), paddle.to_tensor(stored["softmax_b"])
    labels = paddle.to_tensor(stored["labels"])
    check(stored, name, lambda rows: smoothed_softmax_loss(rows @ weight + bias, labels, smoothing))
