"""Convolutions are as exact as rounding allows: in strips or at once, on any thread and in any batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.kernels import onednn
from models.kernels.convolution_plan import INPUT, Add, Clip, Convolution
from models.kernels.onednn_convolutions import ConvolutionNetwork
from tests.convolutions import convolved, random_convolution

if onednn.library() is None:
    pytest.skip("this build of Paddle brings no oneDNN", allow_module_level=True)

SIZE = 12
UNITS = {  # the largest relative error of a number, and a margin for the order of sums
    onednn.FLOAT32: 2.0**-21,
    onednn.BFLOAT16: 2.0**-8,
}
KINDS = [
    onednn.FLOAT32,
    pytest.param(
        onednn.BFLOAT16,
        marks=pytest.mark.skipif(not onednn.has_bfloat16(), reason="no instructions for bfloat16 here"),
    ),
]
BUDGETS = [1, 2000, 1 << 20]  # a row at a time, some, and all at once


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


def mobile_network() -> list[Convolution]:
    """Return blocks that widen and narrow; the last have large weights, and run for four pictures."""
    same = {"padding": (1, 1, 1, 1)}
    limited = {"steps": (Clip(0, 6),)}
    return [
        random_convolution("a", INPUT, 3, 8, 3, 1, stride=(2, 2), padding=(0, 0, 1, 1), **limited),
        random_convolution("b", "a", 8, 8, 3, 2, groups=8, **same, **limited),
        random_convolution("c", "b", 8, 4, 1, 3),
        random_convolution("d", "c", 4, 12, 1, 4, **limited),
        random_convolution("e", "d", 12, 12, 3, 5, groups=12, **same, **limited),
        random_convolution("f", "e", 12, 4, 1, 6, steps=(Add("c"),)),
        random_convolution("g", "f", 4, 12, 1, 7, **limited),
        random_convolution("h", "g", 12, 12, 5, 8, groups=12, stride=(3, 3), padding=(2, 2, 2, 2), **limited),
        random_convolution("i", "h", 12, 40, 1, 9),
        random_convolution("j", "i", 40, 50, 1, 10, **limited),
        random_convolution("k", "j", 50, 50, 3, 11, groups=50, **same),
        random_convolution("l", "k", 50, 40, 1, 12, steps=(Add("i"),)),
    ]


def exact(image: np.ndarray, convolutions: list[Convolution], unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the last map in float64, and by how much rounding may change each number of it."""
    maps = {INPUT: (image.astype(np.float64), unit * np.abs(image))}
    for each in convolutions:
        x, error = maps[each.source]
        sizes = np.abs(each.weight.astype(np.float64))
        value = convolved(x, each, each.padding) + each.bias[:, None, None]
        size = convolved(np.abs(x) + error, each, each.padding, sizes)
        error = convolved(error, each, each.padding, sizes) + unit * size
        for step in each.steps:
            if isinstance(step, Clip):
                value = np.clip(value, step.low, step.high)
            else:
                value, error = value + maps[step.map][0], error + maps[step.map][1]
        maps[each.name] = value, error + unit * np.abs(value)
    return maps[convolutions[-1].name]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("count", range(1, 7))
def test_maps_differ_from_exact_ones_by_rounding_alone(count, budget, kind):
    check(network()[:count], budget, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("count", [3, 6, 9, 10, 12])
def test_blocks_that_widen_and_narrow_do_so_too(count, budget, kind):
    check(mobile_network()[:count], budget, kind)


def check(convolutions: list[Convolution], budget: int, kind: int) -> None:
    found = ConvolutionNetwork(convolutions, SIZE, kind, budget)(images(2))
    for image, own in zip(images(2), found, strict=True):
        expected, bound = exact(image, convolutions, UNITS[kind])
        assert own.shape == expected.shape
        assert (np.abs(own - expected) <= bound).all()
        assert bound.max() < np.ptp(expected) / 2  # else the bound would hold of anything


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convolutions", [network(), mobile_network()], ids=["network", "mobile network"])
def test_a_map_depends_on_its_picture_alone_whatever_thread_makes_it(convolutions, kind):
    shared, many = ConvolutionNetwork(convolutions, SIZE, kind), images(9)
    together = shared(many)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda image: shared(image[None])[0], list(many) * 5))
    for number, own in enumerate(alone):
        np.testing.assert_array_equal(own, together[number % 9])
    assert shared(many[:0]).shape == (0, *together.shape[1:])
    np.testing.assert_array_equal(ConvolutionNetwork(convolutions, SIZE, kind)(many), together)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_stays_in_sight(kind):
    image = images(1)
    image[0, 1, 3, 3] = np.nan
    plain = [random_convolution("a", INPUT, 3, 8, 3, 1), random_convolution("b", "a", 8, 4, 1, 2)]
    assert np.isnan(ConvolutionNetwork(plain, SIZE, kind)(image)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_width_are_refused(kind):
    wrong = random_convolution("b", "a", 9, 4, 1, 2)
    with pytest.raises(RuntimeError, match="dnnl_convolution_forward_primitive_desc_create of oneDNN"):
        ConvolutionNetwork([random_convolution("a", INPUT, 3, 8, 3, 1), wrong], SIZE, kind)
