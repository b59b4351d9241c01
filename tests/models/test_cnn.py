"""CNN encoders: shapes, gradients, frozen networks, and learning a few pictures by heart."""

import numpy as np
import paddle
import pytest

from models.cnn import CNNS, Cnn, CnnImageEncoder, ImageEmbedder, cnn_of
from models.encoders import ImageEncoder
from models.losses.metric_learning import MinedLoss, batch_hard_loss
from tests.closeness import assert_close


@pytest.fixture
def images() -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([4, 3, 32, 32]).astype("float32"))


@pytest.fixture(scope="module")
def small() -> Cnn:
    return Cnn("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_lite0"])
def test_features_have_the_stated_width(name: str, images: paddle.Tensor) -> None:
    cnn = Cnn(name)
    assert cnn(images).shape == [4, CNNS[name][1]]
    assert cnn.feature_dim == CNNS[name][1]


def test_vgg_ends_with_the_layer_before_its_classifier() -> None:
    with paddle.LazyGuard():  # 500 MB of weights that nobody needs
        cnn = Cnn("vgg19")
    shapes = {name: parameter.shape for name, parameter in cnn.named_parameters()}
    assert list(shapes.values())[-2:] == [[4096, 4096], [4096]]
    assert "network.classifier.3.weight" in shapes
    assert "network.classifier.6.weight" not in shapes


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="expected one of .*'resnet50'.*, got 'resnet51'"):
        Cnn("resnet51")


def test_a_frozen_cnn_has_neither_gradient_nor_moving_statistics(small: Cnn, images: paddle.Tensor) -> None:
    encoder = CnnImageEncoder(small, ImageEncoder(512, 8))
    encoder.train()
    before = {name: tensor.numpy().copy() for name, tensor in small.state_dict().items()}
    small.frozen = True
    encoder(images).sum().backward()
    assert all(parameter.grad is None for parameter in small.parameters())
    assert encoder.head.fc.weight.grad is not None
    for name, tensor in small.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    small.frozen = False
    encoder.train()
    encoder(images).sum().backward()
    trained = [parameter for parameter in small.parameters() if not parameter.stop_gradient]
    assert all(parameter.grad is not None for parameter in trained)
    assert (small.network.bn1._mean.numpy() != before["network.bn1._mean"]).any()
    small.clear_gradients()


def test_embeddings_for_search_are_normalised_and_those_for_losses_are_not(images: paddle.Tensor) -> None:
    model = ImageEmbedder(Cnn("resnet18"), embed_dim=6)
    model.eval()
    raw = model({"pixels": images})["image"]
    assert raw.shape == [4, 6] == [4, model.embed_dim]
    encoded = model.encode_image({"pixels": images}).numpy()
    assert_close(np.linalg.norm(encoded, axis=1), np.ones(4), 2 * (6 + 3))  # two norms of 6 numbers
    # The network's own sums are the same in both: only what follows it is computed otherwise.
    assert_close(encoded, raw.numpy() / np.linalg.norm(raw, axis=1, keepdims=True), 6 + 3)
    assert cnn_of(model) is model.cnn
    assert cnn_of(ImageEncoder(4, 2)) is None


def test_without_a_map_the_embedding_is_the_feature(small: Cnn, images: paddle.Tensor) -> None:
    model = ImageEmbedder(small)
    assert model.embed_dim == 512
    assert [name for name, _ in model.named_parameters() if not name.startswith("cnn.")] == []


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_eight_pictures_are_learned(name: str) -> None:
    paddle.seed(0)
    random = np.random.RandomState(0)
    batch = {
        "pixels": paddle.to_tensor(random.standard_normal([8, 3, 32, 32]).astype("float32")),
        "label": paddle.to_tensor(np.repeat([0, 1, 2, 3], 2)),
    }
    model = ImageEmbedder(Cnn(name), embed_dim=16)
    loss = MinedLoss("batch_hard", lambda distances, labels: batch_hard_loss(distances, labels, 0.3))
    optimizer = paddle.optimizer.Adam(3e-4, parameters=model.parameters())
    values = []
    for _ in range(12):
        value = loss(model(batch), batch, 0)["batch_hard"]
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        values.append(float(value))
    assert values[0] > 0.3
    assert values[-1] < 0.05 * values[0]
