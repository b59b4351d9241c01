"""EfficientNet-Lite: EfficientNets (arXiv 1905.11946) without squeeze-and-excitation, and with ReLU6.

Google's Lite models keep the stem, the head and the number of blocks in the first and the last stage fixed,
while width and depth of what lies between grow from lite0 to lite4.
"""

import math
from dataclasses import dataclass

from paddle import Tensor, nn
from paddle.nn import functional as F

FEATURE_DIM = 1280
_STEM_WIDTH = 32


@dataclass(frozen=True)
class _Stage:
    """A run of `repeats` blocks, of which the first alone has the `stride`."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite(nn.Layer):
    """A network without classifier: images [B,3,H,W] -> features [B,1280,1,1].

    `width` and `depth` multiply the channels and the blocks of lite0. With `with_pool` false, the last map
    [B,1280,h,w] is returned. Training drops no blocks at random, which Google's training from scratch did.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.with_pool = True
        self.conv_stem = _convolution(3, _STEM_WIDTH, 3, stride=2)
        self.bn0 = _norm(_STEM_WIDTH)
        blocks, channels = [], _STEM_WIDTH
        for stage in _STAGES:
            fixed = stage in (_STAGES[0], _STAGES[-1])
            repeats = stage.repeats if fixed else math.ceil(stage.repeats * depth)
            out = _scaled_width(stage.width, width)
            for number in range(repeats):
                stride = 1 if number else stage.stride
                blocks.append(_Block(channels, out, stage.kernel, stride, stage.expansion))
                channels = out
        self.blocks = nn.LayerList(blocks)
        self.conv_head = _convolution(channels, FEATURE_DIM, 1)
        self.bn1 = _norm(FEATURE_DIM)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised `images`."""
        x = F.relu6(self.bn0(self.conv_stem(images)))
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))  # [B,1280,h,w]
        return F.adaptive_avg_pool2d(x, 1) if self.with_pool else x


class _Block(nn.Layer):
    """An inverted residual (Sandler et al. 2018, arXiv 1801.04381): widen, convolve each channel, narrow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and channels == out
        if self.expands:
            self.expand_conv = _convolution(channels, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = _convolution(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = _convolution(inner, out, 1)
        self.bn2 = _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)))
        narrow = self.bn2(self.project_conv(inner))
        return x + narrow if self.adds else narrow


def _convolution(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2D:
    # TensorFlow's SAME pads an even picture below and to the right alone, where the stride is 2.
    return nn.Conv2D(channels, out, kernel, stride, padding="SAME", groups=groups, bias_attr=False)


def _norm(channels: int) -> nn.BatchNorm2D:
    return nn.BatchNorm2D(channels, momentum=0.99, epsilon=1e-3)


def _scaled_width(width: int, factor: float) -> int:
    """Return `width` times `factor` as a multiple of 8, which is at most a tenth smaller."""
    scaled = width * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
