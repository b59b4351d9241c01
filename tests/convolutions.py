"""Convolutions of random weights, and what they make of a map by plain loops."""

import numpy as np

from models.kernels.convolution_plan import Convolution


def random_convolution(name, source, channels, out, side, seed, **further) -> Convolution:
    """Return a convolution whose results are about as large as its source."""
    random = np.random.default_rng(seed)
    groups = further.pop("groups", 1)
    weight = random.standard_normal((out, channels // groups, side, side), dtype=np.float32)
    bias = random.standard_normal(out, dtype=np.float32)
    values = {"stride": (1, 1), "padding": (0, 0, 0, 0), **further}
    return Convolution(name, source, weight / (side * channels // groups), bias, groups=groups, **values)


def convolved(
    x: np.ndarray, each: Convolution, padding: tuple[int, int, int, int], weight: np.ndarray | None = None
) -> np.ndarray:
    """Return the convolution of a map [C,H,W] by plain loops, without bias and steps."""
    weight = each.weight.astype(np.float64) if weight is None else weight
    top, left, bottom, right = padding
    x = np.pad(x, [(0, 0), (top, bottom), (left, right)])
    (kernel, _), (down, across) = weight.shape[2:], each.stride
    inner, outer = weight.shape[1], len(weight) // each.groups
    rows = range(0, x.shape[1] - kernel + 1, down)
    columns = range(0, x.shape[2] - kernel + 1, across)
    out = np.zeros((len(weight), len(rows), len(columns)))
    for channel in range(len(weight)):
        group = channel // outer
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                part = x[group * inner : (group + 1) * inner, row : row + kernel, column : column + kernel]
                out[channel, i, j] = (part * weight[channel]).sum()
    return out
