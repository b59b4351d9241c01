"""A stand-in for an object detector: region boxes, tags with confidences, and features from the pixels."""

from dataclasses import dataclass
from random import Random

import numpy as np

from datasets.scenes.layout import COLOURS, SHAPES, Scene
from datasets.scenes.pictures import object_box

NUM_REGIONS = 12
BOX_TERMS = ("x1 / W", "y1 / H", "x2 / W", "y2 / H", "width / W", "height / H")

_CELLS = 16  # a region is averaged down to this many cells a side
_HUES, _GREYS, _ANGLES = 12, 4, 8
APPEARANCE_DIM = 3 + 3 + 3 + 1 + _HUES + _GREYS + 4 * _ANGLES
FEATURE_DIM = APPEARANCE_DIM + len(BOX_TERMS)

_BOXES_PER_OBJECT = 2
_WRONG_TAGS = 0.04
# The whole picture, its quarters and its ninths, as fractions x1, y1, x2, y2.
_GRID = [
    (column / parts, row / parts, (column + 1) / parts, (row + 1) / parts)
    for parts in (1, 2, 3)
    for row in range(parts)
    for column in range(parts)
]


@dataclass(frozen=True)
class Region:
    """A detected box x1, y1, x2, y2 in pixels, its tag, and the confidence in the tag (0 to 1)."""

    box: tuple[float, float, float, float]
    tag: str
    confidence: float


def detect_regions(scene: Scene, image_size: int, rng: Random) -> list[Region]:
    """Return the `NUM_REGIONS` regions of a picture, the most confident first.

    Each object is found twice, in boxes that are jittered by up to an eighth of its size; the first of them
    always contains it. A few tags are wrong. The other regions are cells of a grid, tagged "background", in
    an order that tells nothing about their place.
    """
    regions = []
    for item in scene.objects:
        tight = object_box(item, image_size)
        for attempt in range(_BOXES_PER_OBJECT):
            colour, shape = item.colour, item.shape
            confidence = rng.uniform(0.8, 0.99) - 0.15 * attempt
            if rng.random() < _WRONG_TAGS:
                colour, shape, confidence = rng.choice(COLOURS), rng.choice(SHAPES), rng.uniform(0.3, 0.6)
            box = _jittered(tight, 0.0 if attempt == 0 else -0.06, image_size, rng)
            regions.append(Region(box, f"{colour} {shape}", round(confidence, 3)))
    whole, *cells = _GRID
    for fractions in (whole, *rng.sample(cells, NUM_REGIONS - 1 - len(regions))):
        box = tuple(fraction * image_size for fraction in fractions)
        regions.append(Region(box, "background", round(rng.uniform(0.05, 0.3), 3)))
    return sorted(regions, key=lambda region: -region.confidence)


def _jittered(
    box: tuple[float, float, float, float], least: float, image_size: int, rng: Random
) -> tuple[float, float, float, float]:
    """Return a box whose sides are moved out by `least` to 0.125 of its size, within the picture."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = (rng.uniform(least, 0.125) for _ in range(4))
    width, height = x2 - x1, y2 - y1
    return (
        max(0.0, x1 - left * width),
        max(0.0, y1 - top * height),
        min(float(image_size), x2 + right * width),
        min(float(image_size), y2 + bottom * height),
    )


def region_features(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the features of regions: float32 [N,R,FEATURE_DIM].

    `pictures` is uint8 [N,H,W,3]; `boxes` is [N,R,4], in pixels. The first `APPEARANCE_DIM` values depend
    only on the pixels inside the box; the six `BOX_TERMS` follow.
    """
    height, width = pictures.shape[1:3]
    boxes = boxes.astype(np.float64)
    crops = _area_averages(pictures, boxes) / 255.0  # [3,N,R,C,C]
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    terms = (x1 / width, y1 / height, x2 / width, y2 / height, (x2 - x1) / width, (y2 - y1) / height)
    features = (
        _colour_statistics(crops),
        _colour_histogram(crops),
        _edge_histogram(crops),
        np.stack(terms, -1),
    )
    return np.concatenate(features, axis=-1).astype(np.float32)


def _area_averages(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return exact averages of each box's pixels in `_CELLS` x `_CELLS` cells: [3,N,R,C,C].

    They come from an integral image. A box's edges need not fall between pixels: the integral is linear
    within a pixel. All arithmetic is element-wise, so that the result does not depend on the number of
    threads.
    """
    count, height, width, channels = pictures.shape
    integral = np.zeros((count, height + 1, width + 1, channels))
    integral[:, 1:, 1:] = pictures.cumsum(axis=1, dtype=np.int64).cumsum(axis=2)
    integral = integral.reshape(-1, channels)
    steps = np.arange(_CELLS + 1) / _CELLS
    x1, y1, x2, y2 = np.moveaxis(boxes[..., None], -2, 0)  # each [N,R,1]
    xs, ys = x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps  # [N,R,C+1]
    column, row = np.minimum(xs.astype(np.int64), width - 1), np.minimum(ys.astype(np.int64), height - 1)
    across, down = (xs - column)[:, :, None, :, None], (ys - row)[:, :, :, None, None]
    picture = np.arange(count)[:, None, None, None]
    corner = (picture * (height + 1) + row[..., None]) * (width + 1) + column[:, :, None]  # [N,R,C+1,C+1]
    upper = integral.take(corner, axis=0) * (1 - across) + integral.take(corner + 1, axis=0) * across
    corner += width + 1
    lower = integral.take(corner, axis=0) * (1 - across) + integral.take(corner + 1, axis=0) * across
    sums = np.moveaxis(upper * (1 - down) + lower * down, -1, 0)  # [3,N,R,C+1,C+1]
    areas = (x2 - x1) * (y2 - y1) / _CELLS**2  # [N,R,1]
    return np.ascontiguousarray(np.diff(np.diff(sums, axis=3), axis=4)) / areas[..., None]


def _colour_statistics(crops: np.ndarray) -> np.ndarray:
    """Return statistics of the colours: [N,R,10].

    They are mean, standard deviation, and centre minus border of the three channels, and the mean difference
    of neighbouring cells.
    """
    quarter = _CELLS // 4
    mean = crops.mean(axis=(3, 4))  # [3,N,R]
    centre = crops[..., quarter:-quarter, quarter:-quarter].mean(axis=(3, 4))
    border = (4 * mean - centre) / 3  # the centre is a quarter of the cells
    steps = sum(np.abs(np.diff(crops, axis=axis)).mean(axis=(0, 3, 4)) for axis in (3, 4))
    return np.stack([*mean, *crops.std(axis=(3, 4)), *(centre - border), steps], axis=-1)


def _colour_histogram(crops: np.ndarray) -> np.ndarray:
    """Return histograms of hues, weighted by saturation, and of greys, weighted by its lack: [N,R,12 + 4]."""
    red, green, blue = crops  # each [N,R,C,C]
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    chroma = np.maximum(high - low, 1e-6)
    hue = np.where(high == green, (blue - red) / chroma + 2, (red - green) / chroma + 4)
    hue = np.where(high == red, (green - blue) / chroma % 6, hue)  # 0 to 6
    coloured = np.clip(chroma / np.maximum(high, 1e-6) * 2 - 0.4, 0, 1)
    hues = _soft_histogram(hue * (_HUES / 6), coloured, _HUES)
    greys = _soft_histogram((high + low) / 2 * (_GREYS - 1), 1 - coloured, _GREYS)
    return np.concatenate([hues, greys], axis=-1)


def _soft_histogram(position: np.ndarray, weight: np.ndarray, bins: int) -> np.ndarray:
    """Return a histogram in which each cell's `weight` is shared by the two bins next to its `position`.

    `position` [N,R,C,C] is 0 to `bins`; the last bin is next to the first. `weight` has the same shape.
    Returns the averages over the cells: [N,R,bins].
    """
    regions, cells = position.shape[0] * position.shape[1], position.shape[2] * position.shape[3]
    floor = np.floor(position)
    upper = (position - floor) * weight
    floor = floor.astype(np.int64) % bins
    histogram = np.zeros(regions * bins)
    first = np.arange(regions).reshape(*position.shape[:2], 1, 1) * bins
    for bin_index, share in ((floor, weight - upper), ((floor + 1) % bins, upper)):
        histogram += np.bincount((first + bin_index).ravel(), share.ravel(), minlength=regions * bins)
    return histogram.reshape(*position.shape[:2], bins) / cells


def _edge_histogram(crops: np.ndarray) -> np.ndarray:
    """Return histograms of edge directions in the four quarters of each region, normalised: [N,R,4 * 8].

    A cell's gradient is that of the channel where it is largest (Dalal and Triggs 2005).
    """
    down = (crops[..., 2:, 1:-1] - crops[..., :-2, 1:-1]) / 2
    right = (crops[..., 1:-1, 2:] - crops[..., 1:-1, :-2]) / 2  # [3,N,R,C-2,C-2]
    strongest = (down**2 + right**2).argmax(axis=0)[None]
    down, right = (np.take_along_axis(step, strongest, axis=0)[0] for step in (down, right))
    angle = np.arctan2(down, right) % np.pi * (_ANGLES / np.pi)  # which side is lighter does not matter
    strength, half = np.hypot(down, right), down.shape[2] // 2
    quarters = [
        _soft_histogram(angle[rows], strength[rows], _ANGLES)
        for rows in (
            (slice(None), slice(None), vertical, horizontal)
            for vertical in (slice(half), slice(half, None))
            for horizontal in (slice(half), slice(half, None))
        )
    ]
    histogram = np.concatenate(quarters, axis=-1)
    return histogram / (np.sqrt((histogram**2).sum(axis=-1, keepdims=True)) + 0.02)
