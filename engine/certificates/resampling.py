"""How often each resample of a bootstrap draws each image, without drawing them one by one.

A resample draws n times from n images, with replacement, so its counts are multinomial. Independent Poisson
numbers are multinomial too, given their sum S: then they are the counts of S draws (Johnson, Kotz and
Balakrishnan 1997, Discrete Multivariate Distributions, ch. 35). So each image gets a Poisson number whose
mean is a little below one, and the n - S draws that are lacking are made one by one; a resample that exceeds
n is made anew. This has the distribution of n draws exactly, for whatever S <= n, and needs a byte an image.

A byte decides a Poisson number by a table: a number c has floor(256 p) of the 256 values, where p is its
probability. The few values that are left stand for the rest of the distribution, which a second random number
of 53 bits decides.
"""

import math
from functools import cache

import numpy as np

# How far the expected sum is below n, in standard errors: resamples are seldom made anew, and few draws lack.
_DEVIATIONS = (2.0, 3.0)
_LARGEST = 32  # a Poisson number of a mean below 1 exceeds it once in 1e36 times


def resampled_counts(resamples: int, images: int, random: np.random.Generator) -> np.ndarray:
    """Return how often each of `resamples` draws each of `images`, float32 [B,n]; rows add up to n."""
    mean = _mean_below_one(images)
    counts = poisson_numbers((resamples, images), mean, random).astype(np.float32)
    drawn = counts.sum(axis=1)  # a product would start threads of its own
    while len(exceeding := np.flatnonzero(drawn > images)):
        counts[exceeding] = poisson_numbers((len(exceeding), images), mean, random)
        drawn[exceeding] = counts[exceeding].sum(axis=1)
    lacking = images - drawn.astype(np.int64)
    places = np.repeat(np.arange(resamples) * images, lacking)
    places += random.integers(images, size=len(places), dtype=np.int32)
    np.add.at(counts.reshape(-1), places, np.float32(1))
    return counts


def poisson_numbers(shape: tuple[int, ...], mean: float, random: np.random.Generator) -> np.ndarray:
    """Return independent Poisson numbers, uint8 of `shape`, of a `mean` in [0, 1]."""
    ends, rest = _table(mean)
    size = math.prod(shape)
    drawn = random.integers(1 << 64, size=-(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
    found, beyond = np.zeros(drawn.shape, np.uint8), np.empty(drawn.shape, bool)
    for end in ends:
        found += np.greater_equal(drawn, end, out=beyond).view(np.uint8)
    if len(ends):  # beyond the last end
        undecided = np.flatnonzero(beyond)
        found[undecided] = np.searchsorted(rest, random.random(len(undecided)), side="right")
    return found.reshape(shape)


@cache
def _mean_below_one(images: int) -> float:
    """Return the mean, among those that `_DEVIATIONS` allows, that leaves the fewest bytes undecided."""
    means = np.maximum(0.0, 1 - np.linspace(*_DEVIATIONS, 33) / math.sqrt(images)).tolist()
    return min(means, key=lambda mean: 256 - max(_table(mean)[0], default=256))


@cache
def _table(mean: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the bytes at which the Poisson number grows by one, and the distribution beyond the last one.

    The first number has the bytes below `ends[0]`, the second those below `ends[1]`, and so on. Bytes from
    the last of `ends` on decide nothing; for them the cumulative probabilities [_LARGEST] are those of the
    numbers' shares that no byte stands for. There are no ends if one number is certain.
    """
    chances = [math.exp(-mean) * mean**number / math.factorial(number) for number in range(_LARGEST)]
    bytes_of = [math.floor(256 * chance) for chance in chances]
    ends = tuple(int(end) for end in np.cumsum([count for count in bytes_of if count]))
    if ends[-1] == 256:
        return (), np.zeros(0)
    rest = np.cumsum([256 * chance - count for chance, count in zip(chances, bytes_of, strict=True)])
    return ends, rest / rest[-1]
