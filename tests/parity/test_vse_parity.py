"""VSE computes what its PyTorch port does: linxd5/VSE_Pytorch, run on random weights (golden/kiros.npz)."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from config.default import default_config
from models.build import build_loss, build_model
from models.losses.ranking import hinge_loss
from solvers.optimizer import build_optimizer
from tests.closeness import adam_may_part

GOLDEN = Path(__file__).parent / "golden"

ORIGINAL_NAMES = {
    "image_encoder.fc.weight": "linear.weight",
    "image_encoder.fc.bias": "linear.bias",
    "text_encoder.embed.weight": "embedding.weight",
    "text_encoder.rnn.weight_ih_l0": "lstm.weight_ih_l0",
    "text_encoder.rnn.weight_hh_l0": "lstm.weight_hh_l0",
    "text_encoder.rnn.bias_ih_l0": "lstm.bias_ih_l0",
    "text_encoder.rnn.bias_hh_l0": "lstm.bias_hh_l0",
}


class Case:
    """The model with the port's weights, its loss, its batch, and what must come out."""

    def __init__(self) -> None:
        self.cfg = default_config()
        settings = {"MODEL.NAME": "vse", "INPUT.IMG_FEATURE_DIM": 48, "MODEL.EMBED_DIM": 64}
        settings |= {"MODEL.WORD_DIM": 32, "LOSS.HARD_NEGATIVE": False, "LOSS.MASK_DUPLICATES": False}
        for key, value in settings.items():
            self.cfg.merge_from_list([key, value])
        self.golden = dict(np.load(GOLDEN / "kiros.npz"))
        self.model = build_model(self.cfg, vocab_size=40)
        self.loss = build_loss(self.cfg)
        weights = np.load(GOLDEN / "kiros.weights.npz")
        for name, parameter in self.model.named_parameters():
            parameter.set_value(to_ours(name, weights[ORIGINAL_NAMES[name]]))
        tokens = self.golden["tokens_time_major"].T  # [B,T], captions of one length
        self.batch = {
            "features": paddle.to_tensor(self.golden["images"]),
            "token_ids": paddle.to_tensor(tokens),
            "text_len": paddle.full([tokens.shape[0]], tokens.shape[1], dtype="int64"),
            "image_id": paddle.arange(12),
            "sentence_id": paddle.arange(12),
        }

    def total_loss(self) -> paddle.Tensor:
        return self.loss(self.model(self.batch), self.batch, epoch=0)["hinge"]

    def expected(self, prefix: str, name: str) -> np.ndarray:
        return to_ours(name, self.golden[f"{prefix}.{ORIGINAL_NAMES[name]}"])


def to_ours(name: str, array: np.ndarray) -> np.ndarray:
    return array.T if name == "image_encoder.fc.weight" else array  # Linear: [in, out], there [out, in]


@pytest.fixture
def case() -> Case:
    return Case()


def test_embeddings_and_scores(case: Case) -> None:
    outputs = case.model(case.batch)
    np.testing.assert_allclose(outputs["image"].numpy(), case.golden["img_emb"], atol=1e-5)
    np.testing.assert_allclose(outputs["text"].numpy(), case.golden["cap_emb"], atol=1e-5)
    np.testing.assert_allclose(outputs["scores"].numpy(), case.golden["scores"], atol=1e-5)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_hinge_loss(case: Case, margin: float) -> None:
    loss = hinge_loss(paddle.to_tensor(case.golden["scores"]), margin, hard_negative=False)
    np.testing.assert_allclose(loss.numpy(), case.golden[f"loss_sum_m{margin}"], rtol=1e-4)


def rounding_of(gradient: np.ndarray) -> float:
    """Return by how much golden gradients and ours may differ.

    Float32 rounds in proportion to the largest terms of a sum: against float64, the golden gradients of the
    LSTM's input weights (up to 4.3) are themselves off by 2.3e-6, and ours by 2.6e-6.
    """
    return 1e-6 * max(1.0, np.abs(gradient).max())


def test_gradients(case: Case) -> None:
    case.total_loss().backward()
    for name, parameter in case.model.named_parameters():
        expected = case.expected("grad", name)
        atol = rounding_of(expected)
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-4, atol=atol, err_msg=name)


def test_three_optimizer_steps(case: Case) -> None:
    optimizer = build_optimizer(case.cfg, case.model.named_parameters())  # Adam 2e-4, norm clipped at 2
    losses = []
    for _ in range(3):
        loss = case.total_loss()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    np.testing.assert_allclose(losses, case.golden["step_losses"], rtol=1e-4)
    for name, parameter in case.model.named_parameters():
        gradient, expected = case.expected("grad", name), case.expected("after3", name)
        atol = 1e-6 + adam_may_part(gradient, rounding_of(gradient), [2e-4] * 3)
        np.testing.assert_array_less(np.abs(parameter.numpy() - expected), atol, name)
