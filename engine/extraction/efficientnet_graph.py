"""Writes an EfficientNet-Lite as an ONNX network, in which batch norms are folded into convolutions.

Paddle computes convolutions of single channels on a CPU several times as slowly as ONNX Runtime
(benchmarks/extract_features.py).
"""

import numpy as np
from paddle import nn

from config.errors import UserError
from models.efficientnet import EfficientNetLite

_IR_VERSION, _OPERATORS = 8, 13  # versions of ONNX that ONNX Runtime has read since 2021


def write_onnx(network: EfficientNetLite, size: int, pooled: bool) -> bytes:
    """Return an ONNX network: `image` float32 [n,3,size,size] -> features [n,1280,1,1], or a map.

    Raises UserError if the package onnx is not installed.
    """
    graph = _Graph(size)
    x = graph.convolve("image", network.conv_stem, network.bn0, clips=True)
    for block in network.blocks:
        x = graph.append_block(x, block)
    x = graph.convolve(x, network.conv_head, network.bn1, clips=True)
    return graph.serialize(graph.add_node("GlobalAveragePool", [x]) if pooled else x)


class _Graph:
    """An ONNX graph under construction; values are named by number."""

    def __init__(self, size: int) -> None:
        try:
            import onnx
        except ImportError as error:
            raise UserError(
                "an EfficientNet-Lite with KIND: onnx needs the package onnx, which is not installed: "
                "pip install -r requirements-backbone.txt, or set KIND: paddle"
            ) from error
        self._onnx, self._size = onnx, size
        self._nodes, self._constants = [], []
        for name, bound in (("zero", 0), ("six", 6)):
            self._add_constant(name, np.array(bound, np.float32))

    def add_node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """Append a node; return the name of its output."""
        name = f"value{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def convolve(self, x: str, convolution: nn.Conv2D, norm: nn.BatchNorm2D, clips: bool) -> str:
        """Append a convolution and its batch norm, gamma (x - mean) / deviation + beta, and perhaps ReLU6."""
        scale = norm.weight.numpy() / np.sqrt(norm._variance.numpy() + norm._epsilon)
        weight = f"weight{len(self._nodes)}"
        self._add_constant(weight, convolution.weight.numpy() * scale[:, None, None, None])
        self._add_constant(weight + "bias", norm.bias.numpy() - norm._mean.numpy() * scale)
        x = self.add_node(
            "Conv",
            [x, weight, weight + "bias"],
            auto_pad="SAME_UPPER",
            strides=list(convolution._stride),
            group=convolution._groups,
        )
        return self.add_node("Clip", [x, "zero", "six"]) if clips else x

    def append_block(self, x: str, block: nn.Layer) -> str:
        """Append an inverted residual."""
        inner = self.convolve(x, block.expand_conv, block.bn0, clips=True) if block.expands else x
        inner = self.convolve(inner, block.depthwise_conv, block.bn1, clips=True)
        narrow = self.convolve(inner, block.project_conv, block.bn2, clips=False)
        return self.add_node("Add", [x, narrow]) if block.adds else narrow

    def serialize(self, output: str) -> bytes:
        """Return the network in ONNX's format."""
        helper, number = self._onnx.helper, self._onnx.TensorProto.FLOAT
        images = helper.make_tensor_value_info("image", number, ["n", 3, self._size, self._size])
        features = helper.make_tensor_value_info(output, number, ["n", None, None, None])
        graph = helper.make_graph(self._nodes, "efficientnet_lite", [images], [features], self._constants)
        versions = [helper.make_opsetid("", _OPERATORS)]
        return helper.make_model(graph, opset_imports=versions, ir_version=_IR_VERSION).SerializeToString()

    def _add_constant(self, name: str, values: np.ndarray) -> None:
        self._constants.append(
            self._onnx.numpy_helper.from_array(np.asarray(values, np.float32, order="C"), name)
        )
