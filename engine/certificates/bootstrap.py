"""Bootstrap of means and medians over clusters of queries, from per-query numbers alone.

Queries of one image (its five captions) are not independent, so images are drawn, with replacement, and each
brings all its queries. A mean over queries is then a ratio of two sums over images, weighted by how often
each image was drawn: a product of the matrix of weights [resamples, images] with a narrow matrix of sums. The
weights are made and used block by block (resampling.py). A median needs the weights of those queries alone
whose rank can be the median of a resample; they lie close to the median of all.

Intervals are BCa (Efron 1987, J. Am. Stat. Assoc. 82(397)): percentiles that are corrected for bias and for
acceleration, which for a ratio of sums has a closed form: each image left out once.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from engine.certificates.resampling import resampled_counts
from engine.runtime import choose_threads

RESAMPLES = 10_000
LEVEL = 0.95
_PART = 500  # resamples that share a sequence of random numbers, and a thread
_BLOCK_DRAWS = 1 << 18  # images drawn at a time: their weights, 1 MB, stay in the cache
_ALONE = 1 << 18  # multiplications up to which OpenBLAS works on one thread
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
    found = np.zeros((resamples, strata[0].sums.shape[1]))
    middles = np.zeros((resamples, len(strata[0].medians)))
    with ThreadPoolExecutor(choose_threads()) as pool:
        for number, stratum in enumerate(strata):
            add = partial(_add_rows, _Resampling(stratum), found, middles, (seed, number))
            parts = [slice(start, start + _PART) for start in range(0, resamples, _PART)]
            list(pool.map(add, parts))
    return found / len(strata), middles / len(strata)


def _add_rows(
    resampling: "_Resampling", found: np.ndarray, middles: np.ndarray, seed: tuple[int, int], rows: slice
) -> None:
    """Add a stratum's replicates to `rows` of `found` and `middles`, from random numbers of their own."""
    random = np.random.default_rng((*seed, rows.start))
    step = max(1, _BLOCK_DRAWS // resampling.images)
    found, middles = found[rows], middles[rows]
    for start in range(0, len(found), step):
        block = slice(start, start + step)
        weights = resampled_counts(len(found[block]), resampling.images, random)
        means, medians = resampling.of(weights)
        found[block] += means
        middles[block] += medians


class _Resampling:
    """What is asked of the resamples of a `stratum`, as one product with their weights."""

    def __init__(self, stratum: Stratum) -> None:
        self.images = len(stratum.sums)
        self._whole = stratum.sums.sum(axis=0) / stratum.counts.sum(axis=0)
        different = {column.tobytes(): column for column in stratum.counts.T}  # few: one for each direction
        self._of_column = [list(different).index(column.tobytes()) for column in stratum.counts.T]
        self._searches = [_MedianSearch(*each, self.images) for each in stratum.medians]
        counts = np.stack(list(different.values()), axis=1)
        added = [stratum.sums, counts, *(search.added for search in self._searches)]
        self._ends = np.cumsum([each.shape[1] for each in added])[:-1]
        self._added = np.concatenate(added, axis=1, dtype=np.float32)

    def of(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the means [b,M] and medians [b,K] of resamples with the `weights` float32 [b,n]."""
        sums, drawn, *reached = np.split(_product(weights, self._added), self._ends, axis=1)
        drawn = drawn[:, self._of_column]  # none, where all images that were drawn have no query
        means = np.where(drawn > 0, sums / np.maximum(drawn, 1).astype(np.float64), self._whole)
        medians = [search.of(weights, own) for search, own in zip(self._searches, reached, strict=True)]
        return means, np.reshape(medians, (-1, len(weights))).T


def _product(weights: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Return `weights` [b,n] times `added` [n,S], in pieces for which OpenBLAS starts no threads of its own.

    These would wait for each other beside the threads that share the resamples.
    """
    step = max(64, _ALONE // (len(weights) * added.shape[1]))
    found = np.zeros((len(weights), added.shape[1]), np.float32)
    for start in range(0, len(added), step):
        found += weights[:, start : start + step] @ added[start : start + step]
    return found


class _MedianSearch:
    """Finds the median of resampled `values` [Q], whose images are `owner` [Q], of n images.

    `added` [n,S] is what an image adds to the sums, over a resample, that `of` asks for.
    """

    def __init__(self, values: np.ndarray, owner: np.ndarray, images: int) -> None:
        order = np.argsort(values, kind="stable")
        self._values, self._owner = values[order], owner[order]
        middle = self._values[(len(values) - 1) // 2]
        below = values <= middle
        spread = np.bincount(owner, below - below.mean(), images)  # linearised, of each image
        margin = _DEVIATIONS * math.sqrt((spread**2).sum()) + 2
        self._low = max(0, math.floor(len(values) / 2 - margin))
        self._high = min(len(values), math.ceil(len(values) / 2 + margin))
        window = slice(self._low, self._high)
        self._steps, step = np.unique(self._values[window], return_inverse=True)
        self._few = len(self._steps) <= _FEW_VALUES
        counts = np.bincount(owner, minlength=images)
        before = np.bincount(self._owner[: self._low], minlength=images)
        self.added = np.stack([counts, before], axis=1)
        if self._few:  # how many queries of each image have at most each value
            pairs = self._owner[window] * len(self._steps) + step.reshape(-1)
            equal = np.bincount(pairs, minlength=images * len(self._steps)).reshape(images, -1)
            self.added = np.concatenate([self.added, before[:, None] + equal.cumsum(axis=1)], axis=1)

    def of(self, weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Return the median [b] of each row of `weights` [b,n]; `sums` [b,S] is `weights` times `added`."""
        total, first = sums[:, :2].T.astype(np.int64)
        places = np.stack([np.maximum(total - 1, 0) // 2, total // 2])  # [2,b]
        if self._few:
            found, inside = _first_beyond(sums[:, 2:], self._steps, first, places)
        else:
            found, inside = self._at(weights, slice(self._low, self._high), first, places)
        if not inside.all():
            outside = np.flatnonzero(~inside)
            nothing = np.zeros(len(outside), np.int64)
            found[:, outside], _ = self._at(weights[outside], slice(None), nothing, places[:, outside])
        return found.mean(axis=0)

    def _at(
        self, weights: np.ndarray, window: slice, first: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values [2,b] at `places` [2,b] of the sorted resample, and whether both were seen."""
        reached = np.cumsum(weights[:, self._owner[window]], axis=1) + first[:, None].astype(np.float32)
        return _first_beyond(reached, self._values[window], first, places)


def _first_beyond(
    reached: np.ndarray, values: np.ndarray, first: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values [2,b] at `places` [2,b], and whether both are among `values` [h], which are sorted.

    `first` [b] queries come before the first of `values`, and `reached` [b,h] up to each of them.
    """
    index = np.stack([(reached <= place[:, None]).sum(axis=1) for place in places])
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
