"""Runs a CNN of Paddle as a backbone for pictures."""

import numpy as np
import paddle

from config.errors import UserError
from engine.weights.cnn_weights import load_cnn
from models.cnn import CNNS, Cnn


class PaddleNetwork:
    """One of `CNNS` in evaluation mode: float32 [B,3,H,W] -> [B,F], or its last map [B,F,h,w] with `as_map`.

    `weights` are those of `load_cnn`. Raises `UserError` for an unknown name, and for weights that are
    missing or do not fit.
    """

    def __init__(self, name: str, weights: str, as_map: bool) -> None:
        cnn = load_backbone(name, weights)
        self._network = map_of(cnn) if as_map else cnn

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the output for pictures."""
        with paddle.no_grad():
            return self._network(paddle.to_tensor(images)).numpy()


def load_backbone(name: str, weights: str) -> Cnn:
    """Return one of `CNNS` in evaluation mode, with weights as `load_cnn` takes them; raise as there."""
    if name not in CNNS:
        raise UserError(f"MODEL: expected one of {', '.join(sorted(CNNS))} with KIND: paddle, got {name!r}")
    if not weights:
        raise UserError(
            f"WEIGHTS: expected the file of weights of {name}, got none: write it with "
            f"python tools/convert_weights.py zoo {name}.safetensors --network {name}"
        )
    cnn = Cnn(name)
    load_cnn(weights, cnn)
    cnn.eval()
    return cnn


def map_of(cnn: Cnn) -> paddle.nn.Layer:
    """Return the layer that makes the map before pooling: a part of VGG; other networks without pooling."""
    if isinstance(cnn.network, paddle.vision.models.VGG):
        return cnn.network.features
    cnn.network.with_pool = False
    return cnn.network
