"""Draws the JPEGs of the benchmarks about pictures."""

import math
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY, DIFFERENT = 90, 8  # quality and number of the JPEGs that are drawn; the others are copies


def write_pictures(folder: Path, width: int, height: int, count: int) -> None:
    """Write `count` JPEGs: DIFFERENT drawn pictures and copies of them."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number}.jpg"
        if number < DIFFERENT:
            draw_picture(width, height, seed=number).save(path, quality=QUALITY)
        else:
            shutil.copy(folder / f"{number % DIFFERENT}.jpg", path)


def draw_picture(width: int, height: int, seed: int) -> Image.Image:
    """Return noise of all scales, with less contrast at finer scales, as in photos."""
    noise = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, dtype=np.float32)
    for octave in range(3, int(math.log2(width)) + 1):
        shape = (max(2, round(2**octave * height / width)), 2**octave, 3)
        layer = Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8))
        pixels += (np.asarray(layer.resize((width, height), Image.BICUBIC), np.float32) - 128) * 3 / octave
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
