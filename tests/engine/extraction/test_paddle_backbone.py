"""CNNs of Paddle describe pictures by the vectors, or the map, that they make of them."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from config.errors import UserError
from engine.extraction.paddle_backbone import PaddleNetwork, map_of
from engine.weights.tensors import layer_arrays
from models.cnn import Cnn
from tests.closeness import assert_close

ROUNDINGS = 17 * (9 + 2 * 100) + 1000  # 17 blocks, each of a depth-wise map and two of some 100 channels


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Return a file of new weights of MobileNetV2."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.safetensors"
    save_file(layer_arrays(Cnn("mobilenet_v2").network), path)
    return str(path)


def test_a_vector_is_the_mean_of_the_map_and_comes_again(weights):
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    vectors = PaddleNetwork("mobilenet_v2", weights, as_map=False)(images)
    cells = PaddleNetwork("mobilenet_v2", weights, as_map=True)(images)
    assert vectors.shape == (2, 1280) and cells.shape == (2, 1280, 2, 2)
    assert_close(cells.mean(axis=(2, 3)), vectors, 4 + ROUNDINGS)
    # in evaluation mode a picture's features do not depend on the batch
    alone = PaddleNetwork("mobilenet_v2", weights, as_map=False)(images[:1])
    assert_close(alone[0], vectors[0], ROUNDINGS)


def test_vgg_has_a_map_before_its_hidden_layers():
    features = paddle.nn.Conv2D(3, 4, 2)
    vgg = SimpleNamespace(network=paddle.vision.models.VGG(features, num_classes=0))
    assert map_of(vgg) is features


def test_unknown_names_and_missing_weights_are_one_line(weights):
    with pytest.raises(UserError, match="MODEL: expected one of .*mobilenet_v2, .* got 'resnet'"):
        PaddleNetwork("resnet", weights, as_map=False)
    with pytest.raises(
        UserError, match="WEIGHTS: expected the file of weights of resnet18.*convert_weights.py zoo resnet18"
    ):
        PaddleNetwork("resnet18", "", as_map=False)
    with pytest.raises(UserError, match="none.safetensors: cannot be read"):
        PaddleNetwork("resnet18", "none.safetensors", as_map=False)
    with pytest.raises(UserError, match="mobilenet_v2.safetensors: no tensor"):
        PaddleNetwork("resnet18", weights, as_map=False)
