"""Bootstrap of means and medians over clusters of queries, from per-query numbers alone.

Queries of one image (its five captions) are not independent, so images are drawn, with replacement, and each
brings all its queries. A mean over queries is then a ratio of two sums over images, weighted by how often
each image was drawn: a product of the matrix of weights [resamples, images] with a narrow matrix of sums. The
weights are made and used block by block. A median needs the weights of those queries alone whose rank can be
the median of a resample; they lie close to the median of all.

Intervals are BCa (Efron 1987, J. Am. Stat. Assoc. 82(397)): percentiles that are corrected for bias and for
acceleration, which for a ratio of sums has a closed form: each image left out once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK_DRAWS = 1 << 18  # images drawn at a time
_FEW_VALUES = 128
_DEVIATIONS = 7  # how far from the median of all, in standard errors, that of a resample may lie


@dataclass(frozen=True)
class Stratum:
    """The queries of one fold, within which images are drawn.

    `sums` [n,M] are each image's sums of M per-query numbers, and `counts` [n,M] how many queries it has.
    `medians` are pairs (`values` [Q], `owner` [Q]): per-query numbers whose median is wanted, and the image
    of each.
    """

    sums: np.ndarray
    counts: np.ndarray
    medians: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


@dataclass(frozen=True)
class Interval:
    """An interval of 95%, and how it was found: `bca`, `percentile` or `clopper-pearson`."""

    low: float
    high: float
    method: str


def means_of(strata: list[Stratum]) -> np.ndarray:
    """Return the mean [M] over the strata of each ratio of sums."""
    return np.mean([each.sums.sum(axis=0) / each.counts.sum(axis=0) for each in strata], axis=0)


def replicates(
    strata: list[Stratum], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means [B,M] and the medians [B,K] of `resamples` draws of images within each stratum."""
    random = np.random.default_rng(seed)
    columns, medians = strata[0].sums.shape[1], len(strata[0].medians)
    found, middles = np.zeros((resamples, columns)), np.zeros((resamples, medians))
    for stratum in strata:
        both = np.concatenate([stratum.sums, stratum.counts], axis=1).astype(np.float32)
        whole = stratum.sums.sum(axis=0) / stratum.counts.sum(axis=0)
        searches = [_MedianSearch(*each, len(stratum.sums)) for each in stratum.medians]
        for rows, weights in _draws(len(stratum.sums), resamples, random):
            total = (weights @ both).astype(np.float64)
            drawn = total[:, columns:]  # none, where all images that were drawn have no query
            found[rows] += np.where(drawn > 0, total[:, :columns] / np.maximum(drawn, 1), whole)
            for column, search in enumerate(searches):
                middles[rows, column] += search.of(weights)
    return found / len(strata), middles / len(strata)


def _draws(images: int, resamples: int, random: np.random.Generator) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows of a block of resamples, and how often each drew each image, float32 [b,images]."""
    step = max(1, _BLOCK_DRAWS // images)
    narrow = np.uint16 if images < 1 << 16 else np.int64
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        weights = np.empty((rows, images), np.float32)
        drawn = random.integers(images, size=(rows, images), dtype=narrow)
        for row, own in zip(weights, drawn, strict=True):  # the counts of one row stay in the nearest cache
            row[:] = np.bincount(own, minlength=images)
        yield slice(start, start + rows), weights


class _MedianSearch:
    """Finds the median of resampled `values` [Q], whose images are `owner` [Q], of n images."""

    def __init__(self, values: np.ndarray, owner: np.ndarray, images: int) -> None:
        order = np.argsort(values, kind="stable")
        self._values, self._owner = values[order], owner[order]
        self._counts = np.bincount(owner, minlength=images).astype(np.float32)
        middle = self._values[(len(values) - 1) // 2]
        below = values <= middle
        spread = np.bincount(owner, below - below.mean(), images)  # linearised, of each image
        margin = _DEVIATIONS * math.sqrt((spread**2).sum()) + 2
        self._low = max(0, math.floor(len(values) / 2 - margin))
        self._high = min(len(values), math.ceil(len(values) / 2 + margin))
        self._before = np.bincount(self._owner[: self._low], minlength=images).astype(np.float32)
        window = slice(self._low, self._high)
        self._steps, step = np.unique(self._values[window], return_inverse=True)
        # Few different values: how many queries of each image have at most each of them, [images,steps].
        self._reached: np.ndarray | None = None
        if len(self._steps) <= _FEW_VALUES:
            pairs = self._owner[window] * len(self._steps) + step.reshape(-1)
            reached = np.bincount(pairs, minlength=images * len(self._steps)).reshape(images, -1)
            self._reached = reached.cumsum(axis=1).astype(np.float32)

    def of(self, weights: np.ndarray) -> np.ndarray:
        """Return the median [b] of each row of `weights` [b,images]."""
        total = (weights @ self._counts).astype(np.int64)
        first = (weights @ self._before).astype(np.int64)
        places = np.stack([np.maximum(total - 1, 0) // 2, total // 2])  # [2,b]
        if self._reached is None:
            found, inside = self._at(weights, slice(self._low, self._high), first, places)
        else:
            found, inside = _first_beyond(weights @ self._reached, self._steps, first, places)
        if not inside.all():
            outside = np.flatnonzero(~inside)
            nothing = np.zeros(len(outside), np.int64)
            found[:, outside], _ = self._at(weights[outside], slice(None), nothing, places[:, outside])
        return found.mean(axis=0)

    def _at(
        self, weights: np.ndarray, window: slice, first: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values [2,b] at `places` [2,b] of the sorted resample, and whether both were seen."""
        reached = np.cumsum(weights[:, self._owner[window]], axis=1)
        return _first_beyond(reached, self._values[window], first, places)


def _first_beyond(
    reached: np.ndarray, values: np.ndarray, first: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values [2,b] at `places` [2,b], and whether both are among `values` [h], which are sorted.

    `first` [b] queries come before the first of `values`, and `reached` [b,h] up to each of them.
    """
    ends = reached + first[:, None].astype(np.float32)
    index = np.stack([(ends <= place[:, None]).sum(axis=1) for place in places])
    inside = (first <= places[0]) & (index[1] < len(values))
    return values[np.minimum(index, len(values) - 1)], inside


def left_out(strata: list[Stratum]) -> np.ndarray:
    """Return the means [n,M] with each image left out once, of all strata, one after the other."""
    parts = []
    whole = np.stack([each.sums.sum(axis=0) / each.counts.sum(axis=0) for each in strata])  # [F,M]
    for number, each in enumerate(strata):
        rest = each.counts.sum(axis=0) - each.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            without = np.where(rest > 0, (each.sums.sum(axis=0) - each.sums) / rest, whole[number])
        parts.append((whole.sum(axis=0) - whole[number] + without) / len(strata))
    return np.concatenate(parts)


def bca(estimate: float, drawn: np.ndarray, jackknife: np.ndarray, level: float = LEVEL) -> Interval:
    """Return the BCa interval of an `estimate` from resampled values [B] and those with one left out [n]."""
    share = (np.count_nonzero(drawn < estimate) + np.count_nonzero(drawn <= estimate)) / (2 * len(drawn))
    deviations = jackknife.mean() - jackknife
    scale = (deviations**2).sum()
    if not 0 < share < 1 or scale <= 1e-24:
        return percentile(drawn, level)
    normal = NormalDist()
    bias, acceleration = normal.inv_cdf(share), (deviations**3).sum() / (6 * scale**1.5)

    def corrected(probability: float) -> float:
        shifted = bias + normal.inv_cdf(probability)
        return normal.cdf(bias + shifted / (1 - acceleration * shifted))

    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [corrected(tail), corrected(1 - tail)])
    return Interval(float(low), float(high), "bca")


def percentile(drawn: np.ndarray, level: float = LEVEL) -> Interval:
    """Return the interval between the percentiles of resampled values [B]."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), "percentile")


def of_extreme(estimate: float, images: int, level: float = LEVEL) -> Interval:
    """Return Clopper and Pearson's interval of 0 or 100 percent of `images`, where all resamples agree."""
    reach = 100 * (1 - ((1 - level) / 2) ** (1 / images))
    return Interval(*((0.0, reach) if estimate == 0 else (100 - reach, 100.0)), "clopper-pearson")
