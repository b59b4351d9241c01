"""VSRN computes what the original computes: KunpengLi1994/VSRN, run on random weights.

`coco` and `f30k` are the variants of the released COCO and Flickr30K models.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.nn.functional import log_softmax

from config.default import default_config
from engine.training.training_state import named_parameters
from engine.weights.tensors import layer_tensors
from models.build import build_loss, build_model
from models.losses.ranking import caption_loss, hinge_loss
from solvers.optimizer import build_optimizer
from tests.closeness import adam_may_part, rounding

VARIANTS = {
    "coco": {"MODEL.NORM_REGIONS": True, "MODEL.IMAGE_BATCHNORM": False},
    "f30k": {"MODEL.NORM_REGIONS": False, "MODEL.IMAGE_BATCHNORM": True},
}
SETTINGS = {
    "MODEL.NAME": "vsrn",
    "INPUT.IMG_FEATURE_DIM": 48,
    "MODEL.EMBED_DIM": 64,
    "MODEL.WORD_DIM": 32,
    "MODEL.CAPTION_DIM": 32,
    "MODEL.CAPTION_WORD_DIM": 24,
    "MODEL.CAPTION_MAX_LEN": 16,
    "MODEL.CAPTION_DROPOUT": 0.0,
    "LOSS.MASK_DUPLICATES": False,
}

# There and back: four blocks of four maps, an affinity and a norm, 36 steps of a GRU, a sum over all regions.
ROUNDINGS = 2 * (4 * (4 * 64 + 36 + 20) + 36 * (2 * 64 + 12) + 10 * 36)

# Our names, and the original's.
MODULES = {
    "image_encoder.fc": "img.fc",
    "image_encoder.rnn": "img.img_rnn",
    "image_encoder.norm": "img.bn",
    **{
        f"image_encoder.blocks.{block}.{ours}": f"img.Rs_GCN_{block + 1}.{theirs}"
        for block in range(4)
        for ours, theirs in {"g": "g", "theta": "theta", "phi": "phi", "out": "W.0", "norm": "W.1"}.items()
    },
    "text_encoder.embed": "txt.embed",
    "text_encoder.rnn": "txt.rnn",
    "captioner.region_map": "cap.encoder.vid2hid",
    "captioner.region_rnn": "cap.encoder.rnn",
    "captioner.embed": "cap.decoder.embedding",
    "captioner.attend_region": "cap.decoder.attention.linear1",
    "captioner.attend_state": "cap.decoder.attention.linear1",
    "captioner.attend": "cap.decoder.attention.linear2",
    "captioner.cell": "cap.decoder.rnn",
    "captioner.out": "cap.decoder.out",
}
STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}


def to_ours(name: str, arrays: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    """Return our parameter `name` as it stands among the original's `arrays`."""
    module, kind = name.rsplit(".", 1)
    original = STATISTICS.get(kind, kind) + ("_l0" if module == "captioner.cell" else "")
    array = arrays[f"{prefix}{MODULES[module]}.{original}"]
    if array.ndim == 3:  # a 1x1 convolution
        array = array[:, :, 0]
    if module == "captioner.attend_region":  # the original applies one matrix to [region; state]
        array = array[:, :32] if array.ndim == 2 else array
    if module == "captioner.attend_state":
        array = array[:, 32:]
    is_linear = kind == "weight" and array.ndim == 2 and not module.endswith("embed")
    return array.T if is_linear else array  # Linear: [in, out], there [out, in]


def is_cancelled(name: str) -> bool:
    """Tell of a bias that the batch normalisation behind it takes away again: its gradient is 0."""
    return name.startswith("image_encoder.blocks.") and name.endswith(".out.bias")


def rounding_of(name: str, gradient: np.ndarray) -> float:
    """Return by how much golden gradients and ours may differ.

    Against float64, the golden gradients are off by up to 5e-6 of their largest value, and ours by up to 3e-5
    where NumPy multiplies. What a normalisation cancels are terms of all regions that add up to 410 before.
    """
    if is_cancelled(name):
        return rounding(10 * 36) * 410
    return rounding(ROUNDINGS) * max(0.1, np.abs(gradient).max())


class Case:
    """One variant: the model with the original's weights, its loss, its batch, and what must come out."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.variant = variant
        self.cfg = default_config()
        for key, value in (SETTINGS | VARIANTS[variant]).items():
            self.cfg.merge_from_list([key, value])
        self.golden = dict(np.load(folder / f"{variant}.npz"))
        self.model = build_model(self.cfg, vocab_size=60)
        self.loss = build_loss(self.cfg)
        weights = dict(np.load(folder / f"{variant}.weights.npz"))
        for name, tensor in layer_tensors(self.model).items():
            tensor.set_value(to_ours(name, weights))
        self.batch = {
            "regions": paddle.to_tensor(self.golden["images"]),
            "num_regions": paddle.full([10], 36, dtype="int64"),
            "token_ids": paddle.to_tensor(self.golden["captions"]),
            "text_len": paddle.to_tensor(self.golden["lengths"]),
            "image_id": paddle.arange(10),
            "sentence_id": paddle.arange(10),
        }

    def terms(self) -> dict[str, paddle.Tensor]:
        return self.loss(self.model(self.batch), self.batch, epoch=0)


@pytest.fixture(params=sorted(VARIANTS))
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(request.param, shared / "fixtures" / "vsrn")


def test_the_image_encoder_block_by_block(case: Case) -> None:
    encoder, golden = case.model.image_encoder, case.golden
    encoder.eval()
    regions, num_regions = case.batch["regions"], case.batch["num_regions"]
    np.testing.assert_allclose(encoder.fc(regions).numpy(), golden["fc_out"], atol=1e-5)
    after = []
    for block in encoder.blocks:
        block.register_forward_post_hook(lambda layer, inputs, outputs: after.append(outputs[0]))
    reasoned, affinities = encoder.reason(regions, num_regions)
    for number in (1, 4):
        expected = golden[f"gcn{number}_BDN"].transpose(0, 2, 1)
        np.testing.assert_allclose(after[number - 1].reshape([10, 36, 64]).numpy(), expected, atol=1e-5)
    assert [affinity.shape for affinity in affinities] == [[10, 36, 36]] * 4
    np.testing.assert_allclose(reasoned.numpy(), golden["gcn_regions"], atol=1e-5)
    np.testing.assert_allclose(encoder.pool(reasoned, num_regions).numpy(), golden["img_emb"], atol=1e-5)


def test_embeddings_and_hinge_loss(case: Case) -> None:
    case.model.eval()
    outputs, golden = case.model(case.batch), case.golden
    np.testing.assert_allclose(outputs["image"].numpy(), golden["img_emb"], atol=1e-5)
    np.testing.assert_allclose(outputs["text"].numpy(), golden["cap_emb"], atol=1e-5)
    for margin in (0.05, 0.2):
        for negatives in ("sum", "max"):
            loss = hinge_loss(outputs["scores"], margin, hard_negative=negatives == "max")
            np.testing.assert_allclose(loss.numpy(), golden[f"loss_cosine_{negatives}_m{margin}"], rtol=1e-4)


def test_the_caption_decoder(case: Case) -> None:
    model, batch, golden = case.model, case.batch, case.golden
    model.eval()
    reasoned = paddle.to_tensor(golden["gcn_regions"])
    logits, words = model.captioner(reasoned, batch["num_regions"], batch["token_ids"], batch["text_len"])
    counted = golden["caption_masks"][:, 1:16].astype(bool)  # [B,15]: the steps whose words count
    labels = golden["caption_labels"][:, 1:16]
    np.testing.assert_array_equal(words.numpy(), labels.T[counted.T])  # step by step
    found = log_softmax(logits, axis=1).numpy()
    np.testing.assert_allclose(found, golden["caption_logprobs"].transpose(1, 0, 2)[counted.T], atol=1e-5)
    loss = caption_loss(logits, words, num_captions=10)
    np.testing.assert_allclose(loss.numpy(), golden["caption_loss_evalfeats"], rtol=1e-5)


def test_greedy_captions(case: Case) -> None:
    case.model.eval()
    written, expected = (
        case.model.write_captions(case.batch, max_len=16).numpy(),
        case.golden["caption_greedy"],
    )
    for ours, theirs in zip(written, expected, strict=True):
        end = np.flatnonzero(theirs == 2)
        length = end[0] + 1 if len(end) else len(theirs)  # the original goes on after <end>
        np.testing.assert_array_equal(ours[:length], theirs[:length])
        assert not ours[length:].any()


def test_training_losses_gradients_and_statistics(case: Case) -> None:
    golden, terms = case.golden, case.terms()
    np.testing.assert_allclose(terms["hinge"].numpy(), golden["train_retrieval_loss"], rtol=1e-4)
    np.testing.assert_allclose(terms["caption"].numpy(), golden["train_caption_loss"], rtol=1e-4)
    sum(terms.values()).backward()
    squares = 0.0
    for name, parameter in case.model.named_parameters():
        if parameter.stop_gradient:  # Paddle lists the running statistics too
            continue
        gradient, expected = parameter.grad.numpy(), to_ours(name, golden, "grad_")
        squares += float((gradient.astype(np.float64) ** 2).sum())
        atol = rounding_of(name, expected)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(squares**0.5, golden["grad_norm_unique"], rtol=rounding(ROUNDINGS))
    for name, tensor in layer_tensors(case.model).items():
        if name.endswith(tuple(STATISTICS)):
            expected = to_ours(name, golden, "bnafter1_")
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=2e-6, err_msg=name)


def test_three_optimizer_steps(case: Case) -> None:
    parameters = list(named_parameters(case.model, case.loss))
    optimizer = build_optimizer(case.cfg, parameters)  # Adam 2e-4, norm clipped at 2
    losses = []
    for _ in range(3):
        terms = case.terms()
        total = sum(terms.values())
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append([float(total), float(terms["hinge"]), float(terms["caption"])])
    np.testing.assert_allclose(losses, case.golden["deduplicated_step_losses"], rtol=1e-4)
    for name, tensor in layer_tensors(case.model).items():
        expected = to_ours(name, case.golden, "deduplicated_after3_")
        # Means follow the biases that a normalisation cancels. A variance is quadratic in weights of some
        # 0.06 that are off by some 2e-6, and each of four blocks adds to what the one before it passes on.
        rtol, atol = (0, 6 * 2e-4) if name.endswith("_mean") else (2 * 4 * 2e-6 / 0.06, 0)
        if not name.endswith(tuple(STATISTICS)):
            gradient = to_ours(name, case.golden, "grad_")
            rtol, atol = 0, 1e-6 + adam_may_part(gradient, rounding_of(name, gradient), [2e-4] * 3)
        np.testing.assert_array_less(np.abs(tensor.numpy() - expected), atol + rtol * np.abs(expected), name)
