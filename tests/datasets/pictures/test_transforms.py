"""Crops take the parts that they name, repeat for a seed, and equal resizing followed by cropping."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets.pictures.picture import Picture
from datasets.pictures.transforms import (
    Normalization,
    RandomResizedCrop,
    ResizeCentreCrop,
    Stretch,
    TenCrop,
)
from tests.picture_files import encoded, noisy

BILINEAR = Image.Resampling.BILINEAR
SIZES = [(300, 200), (200, 300), (61, 60), (1000, 90), (1, 1), (7, 500)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", [RandomResizedCrop(32), TenCrop(40, 32)])
def test_views_lie_within_the_picture(transform, size):
    random = generator()
    for _ in range(50):
        for view in transform(size, random):
            left, upper, right, lower = view.box
            assert 0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]
            assert view.size == (32, 32)


def test_random_resized_crops_have_the_areas_and_shapes_asked_for():
    random = generator()
    views = [RandomResizedCrop(32)((400, 400), random)[0] for _ in range(2000)]
    sides = np.array([(view.box[2] - view.box[0], view.box[3] - view.box[1]) for view in views])
    area = sides.prod(axis=1) / 400**2
    ratio = np.log(sides[:, 0] / sides[:, 1])
    assert 0.07 < area.min() < 0.1 and 0.9 < area.max() <= 2
    assert np.abs(ratio).max() < np.log(4 / 3) + 0.02 and abs(ratio.mean()) < 0.02
    assert 0.45 < np.mean([view.flip for view in views]) < 0.55
    corners = np.array([view.box[:2] for view in views])
    assert (corners.min(axis=0) == 0).all() and (corners.max(axis=0) > (200, 200)).all()


def test_without_flips_nothing_is_mirrored():
    random = generator()
    transform = RandomResizedCrop(8, flip=False)
    assert not any(transform((20, 20), random)[0].flip for _ in range(50))


def test_a_shape_that_no_crop_fits_gets_the_middle():
    (view,) = RandomResizedCrop(32, area=(0.99, 1.0))((1000, 10), generator())
    assert view.box == (493, 0, 506, 10)  # 4:3 of the height


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (250, 250), (64, 48)])
def test_centre_crop_equals_resizing_the_whole_first(size):
    data = encoded(noisy(*size))
    short = 56 / min(size)
    resized = tuple(max(56, int(side * short)) for side in size)
    plain = Image.open(io.BytesIO(data)).resize(resized, BILINEAR)
    left, upper = (round((side - 48) / 2) for side in resized)
    expected = np.asarray(plain.crop((left, upper, left + 48, upper + 48))).astype(int)
    picture = Picture(data)
    (found,) = picture.views(ResizeCentreCrop(56, 48)(size, generator()), BILINEAR)
    assert np.abs(found - expected).max() <= 2


def test_ten_crops_are_corners_and_middle_and_their_mirrors():
    data = encoded(noisy(90, 60))
    ten = Picture(data).views(TenCrop(60, 40)((90, 60), generator()), BILINEAR)
    whole = np.asarray(noisy(90, 60))
    corners = [(0, 0), (50, 0), (0, 20), (50, 20), (25, 10)]
    for crop, (left, upper) in zip(ten[:5], corners, strict=True):
        np.testing.assert_array_equal(crop, whole[upper : upper + 40, left : left + 40])
    for crop, mirrored in zip(ten[:5], ten[5:], strict=True):
        np.testing.assert_array_equal(crop[:, ::-1], mirrored)


def test_stretch_takes_the_whole_picture():
    (view,) = Stretch(32)((90, 60), generator())
    assert (view.box, view.size) == ((0, 0, 90, 60), (32, 32))


@pytest.mark.parametrize("bgr", [False, True])
def test_normalization_is_a_difference_times_a_scale(bgr):
    pixels = generator().integers(0, 256, (5, 4, 3), dtype=np.uint8)
    normalization = Normalization((10.0, 20.0, 30.0), (0.5, 0.25, 2.0), bgr)
    out = np.empty((3, 5, 4), dtype=np.float32)
    normalization.write(pixels[:, ::-1], out)
    for y in range(5):
        for x in range(4):
            colour = pixels[y, 3 - x, ::-1] if bgr else pixels[y, 3 - x]
            for channel in range(3):
                expected = (float(colour[channel]) - normalization.mean[channel]) * normalization.scale[
                    channel
                ]
                assert abs(out[channel, y, x] - expected) < 1e-4
