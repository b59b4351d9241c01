"""Find pictures that look alike, whatever their size and compression, by a perceptual hash."""

from collections.abc import Callable

import numpy as np

SIDE = 32  # pixels of the grey picture that is hashed
_FREQUENCIES = 12  # of the cosine transform in each direction, the mean grey left out
BITS = _FREQUENCIES**2 - 1
ALIKE = 24
"""Bits of 143 in which pictures that look alike may differ.

JPEGs of quality 40, pictures of half the size, brighter, grey and slightly cropped ones mostly differ by less
from their originals. No two of 674 photos, of 2,100 and of 1,093 aerial ones do (docs/own_photos.md).
"""
_BLOCK = 2048  # rows that are compared at a time


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """Return the hash of a grey picture float32 [32,32]: bool [143].

    A bit says whether a low frequency of the discrete cosine transform is above the median of all (Zauner's
    thesis on perceptual hashes, 2010).
    """
    frequency, place = np.arange(_FREQUENCIES)[:, None], np.arange(SIDE)[None]
    waves = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)).astype(np.float32)  # [12,32]
    strengths = (waves @ grey @ waves.T).ravel()[1:]
    return strengths > np.median(strengths)


def find_alike(hashes: np.ndarray) -> np.ndarray:
    """Return the pairs of pictures that look alike, int64 [P,2], each with the smaller index first.

    `hashes` is bool [N,143]. The number of equal bits less that of different ones is a product of signs.
    """
    return find_close(np.where(hashes, np.float32(1), np.float32(-1)), BITS - 2 * ALIKE)


def find_close(
    vectors: np.ndarray, least: float, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Return the pairs of `vectors` [N,D] whose inner product is at least `least`, int64 [P,2].

    Each pair has the smaller index first. `progress` is called with the rows done and their number.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(vectors), _BLOCK):
        products = vectors[start : start + _BLOCK] @ vectors[start:].T  # [b,N-start]
        first, second = np.nonzero(products >= least)
        pairs = np.stack([first, second], axis=1)[second > first]
        found.append(pairs + start)
        if progress:
            progress(min(start + _BLOCK, len(vectors)), len(vectors))
    return np.concatenate(found)


def group_alike(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return each picture's group, int64 [count]: the smallest index that a chain of `pairs` leads to."""
    group = np.arange(count)
    while len(pairs):
        lowest = group.copy()
        np.minimum.at(lowest, pairs[:, 0], group[pairs[:, 1]])
        np.minimum.at(lowest, pairs[:, 1], group[pairs[:, 0]])
        lowest = lowest[lowest]
        if (lowest == group).all():
            break
        group = lowest
    return group
