"""The graphs of convolutional networks; batch norms are put into the convolutions before them."""

import numpy as np
import paddle
from paddle import nn
from paddle.vision.models import VGG, MobileNetV2, ResNet
from paddle.vision.models.mobilenetv2 import InvertedResidual
from paddle.vision.models.resnet import BasicBlock, BottleneckBlock

from config.errors import UserError
from engine.export.graphs.dual import map_features, norm_as_affine
from engine.export.graphs.layers import l2norm, linear
from engine.export.graphs.onnx_graph import OnnxGraph
from models.cnn import Cnn, CnnImageEncoder, ImageEmbedder
from models.efficientnet import EfficientNetLite


def encode_pixels(graph: OnnxGraph, encoder: CnnImageEncoder, crop: int) -> str:
    """Return the embeddings [B,D] of the input `pixels` [B,3,crop,crop], of a dual encoder."""
    return map_features(graph, l2norm(graph, _features(graph, encoder.cnn, crop)), encoder.head)


def embed_pictures(graph: OnnxGraph, embedder: ImageEmbedder, crop: int) -> str:
    """Return the l2-normalised embeddings [B,D] of the input `pixels` [B,3,crop,crop], of metric learning."""
    features = _features(graph, embedder.cnn, crop)
    return l2norm(graph, features if embedder.fc is None else linear(graph, features, embedder.fc))


def _features(graph: OnnxGraph, cnn: Cnn, crop: int) -> str:
    pixels = graph.input("pixels", "float32", ["batch", 3, crop, crop])
    return graph.add("Flatten", Walk(graph, crop).layer(cnn.network, pixels), axis=1)


class Walk:
    """A walk through a network's layers that writes a node for each.

    `crop` is the number of pixels on a side of the pictures.
    """

    def __init__(self, graph: OnnxGraph, crop: int) -> None:
        self.graph, self.crop = graph, crop

    def layer(self, layer: nn.Layer, x: str) -> str:
        """Return the output of `layer` for `x`; raise UserError for a layer that is not known here."""
        for kind, write in WRITERS.items():
            if isinstance(layer, kind):
                return write(self, layer, x)
        raise UserError(
            f"MODEL.CNN: {type(layer).__name__} layers cannot be exported yet, expected "
            f"{', '.join(sorted(kind.__name__ for kind in WRITERS))}"
        )

    def sequence(self, layers: list[nn.Layer], x: str) -> str:
        """Return the output of layers in a row; a batch norm goes into the convolution before it."""
        for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
            if isinstance(layer, nn.Conv2D):
                x = self.convolution(layer, x, after if isinstance(after, nn.BatchNorm2D) else None)
            elif not (isinstance(layer, nn.BatchNorm2D) and isinstance(before, nn.Conv2D)):
                x = self.layer(layer, x)
        return x

    def convolution(self, layer: nn.Conv2D, x: str, norm: nn.BatchNorm2D | None) -> str:
        """Return the convolution of `x`, followed by `norm`."""
        weight = layer.weight.numpy().astype(np.float64)
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.numpy().astype(np.float64)
        if norm is not None:
            scale, shift = norm_as_affine(norm)
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        # Paddle's SAME is TensorFlow's, which pads more below and to the right.
        same = layer._padding == "SAME"
        padding = {"auto_pad": "SAME_UPPER"} if same else {"pads": _pair(layer._padding) * 2}
        return self.graph.add(
            "Conv",
            x,
            self.graph.weight(weight),
            self.graph.weight(bias),
            strides=_pair(layer._stride),
            dilations=_pair(layer._dilation),
            group=layer._groups,
            **padding,
        )

    def resnet(self, network: ResNet, x: str) -> str:
        """Return the features of a ResNet without its classifier."""
        x = self.sequence([network.conv1, network.bn1, network.relu, network.maxpool], x)
        blocks = network.layer1, network.layer2, network.layer3, network.layer4
        return self.sequence([*blocks, network.avgpool], x)

    def residual(self, block: BasicBlock | BottleneckBlock, x: str) -> str:
        """Return the output of a block of a ResNet, or of MobileNetV2's linear one."""
        if isinstance(block, InvertedResidual):
            inner = self.layer(block.conv, x)
            return self.graph.add("Add", x, inner) if block.use_res_connect else inner
        layers = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
        if isinstance(block, BottleneckBlock):
            layers += [block.relu, block.conv3, block.bn3]
        inner = self.sequence(layers, x)
        short = x if block.downsample is None else self.layer(block.downsample, x)
        return self.graph.add("Relu", self.graph.add("Add", inner, short))

    def mobilenet(self, network: MobileNetV2, x: str) -> str:
        """Return the features of a MobileNetV2 without its classifier."""
        return self.sequence([network.features, network.pool2d_avg], x)

    def efficientnet(self, network: EfficientNetLite, x: str) -> str:
        """Return the features of an EfficientNet-Lite."""
        x = self.clip(self.sequence([network.conv_stem, network.bn0], x))
        for block in network.blocks:
            inner = x
            if block.expands:
                inner = self.clip(self.sequence([block.expand_conv, block.bn0], inner))
            inner = self.clip(self.sequence([block.depthwise_conv, block.bn1], inner))
            inner = self.sequence([block.project_conv, block.bn2], inner)
            x = self.graph.add("Add", x, inner) if block.adds else inner
        x = self.clip(self.sequence([network.conv_head, network.bn1], x))
        return self.graph.add("GlobalAveragePool", x)

    def vgg(self, network: VGG, x: str) -> str:
        """Return the features of a VGG whose classifier lacks its last layer."""
        with paddle.no_grad():
            side = network.features(paddle.zeros([1, 3, self.crop, self.crop])).shape[2]
        x = self.layer(network.features, x)
        cells = network.avgpool._output_size[0]
        if side != cells:  # averages over cells, along both axes
            weights = _averages(side, cells)
            x = self.graph.add("MatMul", self.graph.weight(weights), x)
            x = self.graph.add("MatMul", x, self.graph.weight(weights.T))
        return self.layer(network.classifier, self.graph.add("Flatten", x, axis=1))

    def max_pool(self, layer: nn.MaxPool2D, x: str) -> str:
        """Return the maximum over windows."""
        window, stride, pads = (
            _pair(layer.ksize),
            _pair(layer.stride or layer.ksize),
            _pair(layer.padding) * 2,
        )
        return self.graph.add("MaxPool", x, kernel_shape=window, strides=stride, pads=pads)

    def average_pool(self, layer: nn.AdaptiveAvgPool2D, x: str) -> str:
        """Return the mean over all cells."""
        assert set(np.atleast_1d(layer._output_size)) == {1}, layer._output_size
        return self.graph.add("GlobalAveragePool", x)

    def standalone_norm(self, layer: nn.BatchNorm2D, x: str) -> str:
        """Return the batch norm of `x` where no convolution stands before it."""
        scale, shift = (self.graph.weight(each[:, None, None]) for each in norm_as_affine(layer))
        return self.graph.add("Add", self.graph.add("Mul", x, scale), shift)

    def clip(self, x: str) -> str:
        """Return `x` limited to 0 to 6."""
        limits = (self.graph.constant(np.float32(limit)) for limit in (0, 6))
        return self.graph.add("Clip", x, *limits)


WRITERS = {
    ResNet: Walk.resnet,
    MobileNetV2: Walk.mobilenet,
    EfficientNetLite: Walk.efficientnet,
    VGG: Walk.vgg,
    BasicBlock: Walk.residual,
    BottleneckBlock: Walk.residual,
    InvertedResidual: Walk.residual,
    nn.Sequential: lambda walk, layer, x: walk.sequence(list(layer.children()), x),
    nn.Conv2D: lambda walk, layer, x: walk.convolution(layer, x, None),
    nn.BatchNorm2D: Walk.standalone_norm,
    nn.MaxPool2D: Walk.max_pool,
    nn.AdaptiveAvgPool2D: Walk.average_pool,
    nn.ReLU: lambda walk, layer, x: walk.graph.add("Relu", x),
    nn.ReLU6: lambda walk, layer, x: walk.clip(x),
    nn.Dropout: lambda walk, layer, x: x,
    nn.Linear: lambda walk, layer, x: linear(walk.graph, x, layer),
}


def _pair(value: object) -> list[int]:
    """Return a size for both axes, from one number or two."""
    return [int(each) for each in np.broadcast_to(np.asarray(value), 2)]


def _averages(length: int, parts: int) -> np.ndarray:
    """Return the weights [parts,length] of an adaptive average, whose parts may overlap."""
    weights = np.zeros((parts, length))
    for part in range(parts):
        start, end = part * length // parts, -(-(part + 1) * length // parts)
        weights[part, start:end] = 1 / (end - start)
    return weights
