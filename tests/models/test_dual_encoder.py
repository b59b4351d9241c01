"""The dual encoder: named outputs, similarities by plain loops, and learning."""

import numpy as np
import paddle
import pytest

from config.default import default_config
from models.build import build_loss, build_model
from models.dual_encoder import DualEncoder, cosine_similarity, order_similarity
from tests.closeness import assert_close, largest

ROUNDINGS = 10 + 1 + 16 + 3  # of the map from 10 features, the bias, and the norm of 16 numbers


def small_config(**settings):
    cfg = default_config()
    defaults = {"INPUT.IMG_FEATURE_DIM": 10, "MODEL.EMBED_DIM": 16, "MODEL.WORD_DIM": 8}
    for key, value in (defaults | {key.replace("__", "."): value for key, value in settings.items()}).items():
        cfg.merge_from_list([key, value])
    return cfg


def small_batch(pairs: int) -> dict[str, paddle.Tensor]:
    random = np.random.RandomState(0)
    lengths = random.randint(3, 7, pairs)
    return {
        "features": paddle.to_tensor(random.randn(pairs, 10).astype("float32")),
        "token_ids": paddle.to_tensor(random.randint(1, 30, [pairs, 6]) * (np.arange(6) < lengths[:, None])),
        "text_len": paddle.to_tensor(lengths),
        "image_id": paddle.arange(pairs),
        "sentence_id": paddle.arange(pairs),
    }


FAMILIES = [
    {"MODEL__NAME": "vse", "LOSS__HARD_NEGATIVE": False},
    {"MODEL__NAME": "vsepp", "LOSS__SUM_EPOCHS": 60},
    {"MODEL__NAME": "vsepp", "MODEL__MEASURE": "order", "MODEL__USE_ABS": True, "LOSS__SUM_EPOCHS": 60},
    {"MODEL__NAME": "vsepp", "LOSS__NAME": "contrastive", "MODEL__BIDIRECTIONAL": True},
]


@pytest.mark.parametrize("settings", FAMILIES)
def test_outputs_are_named_and_shaped(settings: dict) -> None:
    model = build_model(small_config(**settings), vocab_size=30)
    outputs = model(small_batch(5))
    assert {name: value.shape for name, value in outputs.items()} == {
        "image": [5, 16],
        "text": [5, 16],
        "scores": [5, 5],
    }


@pytest.mark.parametrize("settings", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(settings: dict) -> None:
    cfg = small_config(**settings)
    model, loss = build_model(cfg, vocab_size=30), build_loss(cfg)
    batch = small_batch(5)
    sum(loss(model(batch), batch, epoch=0).values()).backward()
    for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
        assert parameter.grad is not None, name
        assert np.isfinite(parameter.grad.numpy()).all(), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("settings", FAMILIES)
def test_model_overfits_eight_pairs(settings: dict) -> None:
    paddle.seed(1)
    cfg = small_config(**settings)
    model, loss = build_model(cfg, vocab_size=30), build_loss(cfg)
    batch = small_batch(8)
    optimizer = paddle.optimizer.Adam(0.01, parameters=[*model.parameters(), *loss.parameters()])
    for epoch in range(120):
        sum(loss(model(batch), batch, epoch).values()).backward()
        optimizer.step()
        optimizer.clear_grad()
    scores = model(batch)["scores"].numpy()
    assert (scores.argmax(axis=1) == np.arange(8)).all()
    assert (scores.argmax(axis=0) == np.arange(8)).all()


def test_similarities_by_plain_loops() -> None:
    random = np.random.RandomState(3)
    image, text = random.randn(3, 4).astype("float32"), random.randn(5, 4).astype("float32")
    cosine = cosine_similarity(paddle.to_tensor(image), paddle.to_tensor(text)).numpy()
    order = order_similarity(paddle.to_tensor(image), paddle.to_tensor(text)).numpy()
    for i in range(3):
        for t in range(5):
            product = sum(float(image[i, d]) * float(text[t, d]) for d in range(4))
            violation = sum(max(0.0, float(text[t, d]) - float(image[i, d])) ** 2 for d in range(4)) ** 0.5
            assert_close(cosine[i, t], product, 4, scale=sum(abs(image[i] * text[t])))
            assert_close(order[i, t], -violation, 4 + 4, scale=largest([image, text]) + violation)


def test_an_order_that_holds_everywhere_has_a_finite_gradient() -> None:
    image = paddle.to_tensor([[2.0, 2.0]], stop_gradient=False)
    text = paddle.to_tensor([[1.0, 1.0]], stop_gradient=False)
    order_similarity(image, text).sum().backward()
    assert np.isfinite(image.grad.numpy()).all()
    assert np.isfinite(text.grad.numpy()).all()


def test_regions_are_averaged_like_global_features() -> None:
    model = build_model(small_config(), vocab_size=30)
    regions = np.random.RandomState(0).randn(2, 3, 10).astype("float32")
    batch = {"regions": paddle.to_tensor(regions), "num_regions": paddle.to_tensor([3, 2])}
    pooled = np.stack([regions[0].mean(axis=0), regions[1, :2].mean(axis=0)])
    expected = model.encode_image({"features": paddle.to_tensor(pooled)})
    assert_close(model.encode_image(batch).numpy(), expected.numpy(), 3 + ROUNDINGS)


def test_standardisation_enters_the_model_from_the_moments() -> None:
    mean, deviation = np.full(10, 2.0, "float32"), np.full(10, 4.0, "float32")
    model = build_model(small_config(INPUT__STANDARDIZE=True), 30, mean, deviation)
    features = paddle.to_tensor(np.random.RandomState(0).randn(2, 10).astype("float32"))
    plain = model.image_encoder.fc((features - 2.0) / 4.0)
    expected = plain / plain.norm(axis=1, keepdim=True)
    assert_close(model.encode_image({"features": features}).numpy(), expected.numpy(), 2 + ROUNDINGS)


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="cosine.*order.*'dot'"):
        DualEncoder(paddle.nn.Identity(), paddle.nn.Identity(), measure="dot")
    with pytest.raises(ValueError, match="vse.*vsepp.*'bert'"):
        build_model(small_config(MODEL__NAME="bert"), vocab_size=30)
    with pytest.raises(ValueError, match="contrastive.*hinge.*'octuplet'"):
        build_loss(small_config(LOSS__NAME="octuplet"))
