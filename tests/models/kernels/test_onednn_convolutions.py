"""Convolutions in bfloat16 are as exact as rounding allows, on any thread and in any batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.kernels import onednn
from models.kernels.convolution_plan import INPUT, Add, Clip, Convolution
from models.kernels.onednn_convolutions import ConvolutionNetwork

pytestmark = pytest.mark.skipif(not onednn.has_bfloat16(), reason="no instructions for bfloat16 here")

SIZE = 12
UNIT = 2.0**-8  # the largest relative error of rounding to bfloat16 is half of it; a margin for float32


def random_convolution(name, source, channels, out, side, seed, **further) -> Convolution:
    random = np.random.default_rng(seed)
    groups = further.pop("groups", 1)
    weight = random.standard_normal((out, channels // groups, side, side), dtype=np.float32)
    bias = random.standard_normal(out, dtype=np.float32)
    values = {"stride": (1, 1), "padding": (0, 0, 0, 0), **further}
    return Convolution(name, source, weight / (side * channels // groups), bias, groups=groups, **values)


def network() -> list[Convolution]:
    """Return convolutions of all kinds: of one channel each, with odd padding, limits and sums."""
    same = {"padding": (1, 1, 1, 1)}
    return [
        random_convolution("a", INPUT, 3, 8, 3, 1, stride=(2, 2), padding=(0, 0, 1, 1), steps=(Clip(0, 6),)),
        random_convolution("b", "a", 8, 8, 3, 2, groups=8, steps=(Clip(0, np.inf),), **same),
        random_convolution("c", "b", 8, 8, 1, 3, steps=(Clip(-0.5, 0.5), Add("a"))),
        random_convolution("d", "c", 8, 20, 5, 4, groups=2, padding=(2, 2, 2, 2)),
        random_convolution("e", "d", 20, 8, 1, 5, steps=(Add("c"), Clip(0, 1))),
        random_convolution("f", "e", 8, 5, 3, 6, stride=(2, 1), padding=(1, 0, 0, 2)),
    ]


def convolved(x: np.ndarray, weight: np.ndarray, each: Convolution) -> np.ndarray:
    """Return the convolution of a map [C,H,W] by plain loops."""
    top, left, bottom, right = each.padding
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


def exact(image: np.ndarray, convolutions: list[Convolution]) -> tuple[np.ndarray, np.ndarray]:
    """Return the last map in float64, and by how much rounding may change each number of it."""
    maps = {INPUT: (image.astype(np.float64), UNIT * np.abs(image))}
    for each in convolutions:
        weight, (x, error) = each.weight.astype(np.float64), maps[each.source]
        value = convolved(x, weight, each) + each.bias[:, None, None]
        size = convolved(np.abs(x) + error, np.abs(weight), each)
        error = convolved(error, np.abs(weight), each) + UNIT * size
        for step in each.steps:
            if isinstance(step, Clip):
                value = np.clip(value, step.low, step.high)
            else:
                value, error = value + maps[step.map][0], error + maps[step.map][1]
        maps[each.name] = value, error + UNIT * np.abs(value)
    return maps[convolutions[-1].name]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


@pytest.mark.parametrize("count", range(1, 7))
def test_maps_differ_from_exact_ones_by_rounding_alone(count):
    convolutions = network()[:count]
    found = ConvolutionNetwork(convolutions, SIZE)(images(2))
    for image, own in zip(images(2), found, strict=True):
        expected, bound = exact(image, convolutions)
        assert own.shape == expected.shape
        assert (np.abs(own - expected) <= bound).all()
        assert bound.max() < np.ptp(expected) / 2  # else the bound would hold of anything


def test_a_map_depends_on_its_picture_alone_whatever_thread_makes_it():
    shared, many = ConvolutionNetwork(network(), SIZE), images(8)
    together = shared(many)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda image: shared(image[None])[0], list(many) * 5))
    for number, own in enumerate(alone):
        np.testing.assert_array_equal(own, together[number % 8])
    assert shared(many[:0]).shape == (0, *together.shape[1:])
    np.testing.assert_array_equal(ConvolutionNetwork(network(), SIZE)(many), together)


def test_what_is_not_a_number_stays_in_sight():
    image = images(1)
    image[0, 1, 3, 3] = np.nan
    plain = [random_convolution("a", INPUT, 3, 8, 3, 1), random_convolution("b", "a", 8, 4, 1, 2)]
    assert np.isnan(ConvolutionNetwork(plain, SIZE)(image)).any()


def test_weights_of_another_width_are_refused():
    wrong = random_convolution("b", "a", 9, 4, 1, 2)
    with pytest.raises(RuntimeError, match="dnnl_convolution_forward_primitive_desc_create of oneDNN"):
        ConvolutionNetwork([random_convolution("a", INPUT, 3, 8, 3, 1), wrong], SIZE)
