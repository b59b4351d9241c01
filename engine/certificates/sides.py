"""The certificate of a result: of each metric its interval, what ties decide, and what chance would reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from engine.certificates import bootstrap
from engine.certificates.bootstrap import Interval, Stratum
from engine.ranking.counter import TiedRanks


@dataclass(frozen=True)
class Side:
    """The ranks of the Q queries of one direction, and what else a certificate needs of them.

    `query` [Q] are the rows of the queries in their split, without those that have no relevant item. `owner`
    [Q] is the image (or the class) that a query belongs to, and `fold` [Q] the fold. `relevant` [Q] is the
    number of relevant items in a gallery of `gallery` [Q]. `recalls` are the K of R@K. `precisions` are
    further numbers per query, in [0, 1], by name. `median` tells whether the median rank is a metric.
    """

    favour: np.ndarray
    against: np.ndarray
    query: np.ndarray
    owner: np.ndarray
    fold: np.ndarray
    relevant: np.ndarray
    gallery: np.ndarray
    recalls: tuple[int, ...] = (1, 5, 10)
    precisions: Mapping[str, np.ndarray] = field(default_factory=dict)
    median: bool = True

    @classmethod
    def of(
        cls,
        ranks: TiedRanks,
        owner: np.ndarray,
        fold: np.ndarray,
        relevant: np.ndarray,
        gallery: np.ndarray,
        recalls: tuple[int, ...] = (1, 5, 10),
    ) -> "Side":
        """Return the side of all queries that have a relevant item; all arrays are [queries]."""
        asked = np.flatnonzero(relevant > 0)
        arrays = (ranks.favour, ranks.against, np.arange(len(relevant)), owner, fold, relevant, gallery)
        return cls(*(np.asarray(each)[asked] for each in arrays), recalls)

    def only(self, kept: np.ndarray) -> "Side":
        """Return the side of the queries that `kept` [Q] (bool) tells."""
        arrays = {each.name: getattr(self, each.name)[kept] for each in fields(self)[:7]}
        precisions = {name: np.asarray(values)[kept] for name, values in self.precisions.items()}
        return replace(self, **arrays, precisions=precisions)

    def ranks(self, tie_rule: str) -> np.ndarray:
        """Return the 0-based ranks [Q] by `tie_rule`."""
        return TiedRanks(self.favour, self.against).by(tie_rule)

    def numbers(self, tie_rule: str) -> dict[str, np.ndarray]:
        """Return the numbers [Q] of each metric that is a mean over queries: percent or ranks from 1."""
        ranks = self.ranks(tie_rule)
        found = {f"r{k}": np.where(ranks + 1 <= k, 100.0, 0.0) for k in self.recalls}
        if self.median:
            found["meanr"] = ranks + 1.0
        return found | {name: 100.0 * np.asarray(each) for name, each in self.precisions.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, in the smallest types that hold them, to be stored."""
        found = {each.name: getattr(self, each.name) for each in fields(self)[:7]}
        found = {
            name: array.astype(np.min_scalar_type(int(array.max(initial=0)))) for name, array in found.items()
        }
        return found | {f"precision_{name}": np.asarray(each) for name, each in self.precisions.items()}


Sides = dict[str, Side]  # by direction: "i2t_" and "t2i_", or "" where there is one


@dataclass(frozen=True)
class Certified:
    """What stands behind the value of a metric.

    `tie` are the values under the friendliest and the harshest rule, and `tied` is how many queries make the
    difference. `chance` is the value that random scores are expected to have. None: not known.
    """

    value: float
    interval: Interval
    tie: tuple[float, float] | None = None
    tied: int | None = None
    chance: float | None = None

    def as_dict(self) -> dict:
        """Return the entry of `result.json`."""
        entry: dict = {"low": self.interval.low, "high": self.interval.high, "method": self.interval.method}
        if self.tie is not None:
            entry |= {"tie": list(self.tie), "tied_queries": self.tied}
        return entry if self.chance is None else entry | {"chance": self.chance}


def strata_of(sides: Sides, tie_rule: str) -> tuple[list[Stratum], list[str], list[str]]:
    """Return a stratum for each fold, the names of its means, and those of its medians."""
    numbers = {prefix: side.numbers(tie_rule) for prefix, side in sides.items()}
    names = [prefix + name for prefix, found in numbers.items() for name in found]
    medians = [f"{prefix}medr" for prefix, side in sides.items() if side.median]
    strata = []
    for fold in np.unique(np.concatenate([side.fold for side in sides.values()])):
        kept = {prefix: side.fold == fold for prefix, side in sides.items()}
        owners, place = np.unique(
            np.concatenate([side.owner[kept[prefix]] for prefix, side in sides.items()]), return_inverse=True
        )
        ends = np.cumsum([kept[prefix].sum() for prefix in sides])[:-1]
        own = dict(zip(sides, np.split(place.reshape(-1), ends), strict=True))
        sums, counts, middles = [], [], []
        for prefix, found in numbers.items():
            owner = own[prefix]
            count = np.bincount(owner, minlength=len(owners))
            for values in found.values():
                sums.append(np.bincount(owner, values[kept[prefix]], len(owners)))
                counts.append(count)
            if sides[prefix].median:
                middles.append((sides[prefix].ranks(tie_rule)[kept[prefix]], owner))
        strata.append(Stratum(np.stack(sums, axis=1), np.stack(counts, axis=1), tuple(middles)))
    return strata, names, medians


def contributions(sides: Sides, tie_rule: str) -> tuple[np.ndarray, list[str]]:
    """Return what each image adds to each mean, [images of all strata,M], so that columns sum to the values.

    The last two columns are `rsum` and `mean_recall`, where there are recalls at 1, 5 and 10.
    """
    strata, names, _ = strata_of(sides, tie_rule)
    parts = [each.sums / each.counts.sum(axis=0) / len(strata) for each in strata]
    return with_sums(np.concatenate(parts), names, sides)


def certify(
    sides: Sides, tie_rule: str, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Certified]:
    """Return the certificate of each metric of `sides`, whose values follow `tie_rule`.

    Images (or classes) are drawn `resamples` times from `seed`, within their fold. Metrics that are means
    have BCa intervals, medians those of percentiles; where no query or every query is a hit, all resamples
    agree, and the interval is Clopper and Pearson's for so many images.
    """
    strata, names, medians = strata_of(sides, tie_rule)
    drawn, middles = bootstrap.replicates(strata, resamples, seed)
    value, _ = with_sums(bootstrap.means_of(strata)[None], names, sides)
    drawn, all_names = with_sums(drawn, names, sides)
    jackknife, _ = with_sums(bootstrap.left_out(strata), names, sides)
    images = sum(len(each.sums) for each in strata)
    ties, chances = _ties(sides, tie_rule), _chances(sides)
    found = {}
    for column, name in enumerate(all_names):
        estimate = float(value[0, column])
        interval = bootstrap.bca(estimate, drawn[:, column], jackknife[:, column])
        if interval.low == interval.high and estimate in (0.0, 100.0):
            interval = bootstrap.of_extreme(estimate, images)
        found[name] = Certified(estimate, interval, *ties.get(name, (None, None)), chances.get(name))
    for column, name in enumerate(medians):
        side = sides[name.removesuffix("medr")]
        ranks = side.ranks(tie_rule)
        folds = [ranks[side.fold == fold] for fold in np.unique(side.fold)]
        estimate = float(np.mean([np.floor(np.median(each)) + 1 for each in folds]))
        found[name] = Certified(estimate, bootstrap.percentile(np.floor(middles[:, column]) + 1))
    return found


def with_sums(values: np.ndarray, names: list[str], sides: Sides) -> tuple[np.ndarray, list[str]]:
    """Return `values` [n,M] with the columns `rsum` and `mean_recall` behind, and all names."""
    if not have_sums(sides):
        return values, names
    recalls = [names.index(f"{prefix}r{k}") for prefix, side in sides.items() for k in side.recalls]
    total = values[:, recalls].sum(axis=1)
    added = np.stack([total, total / len(recalls)], axis=1)
    return np.concatenate([values, added], axis=1), [*names, "rsum", "mean_recall"]


def _ties(sides: Sides, tie_rule: str) -> dict[str, tuple[tuple[float, float], int]]:
    """Return the recalls under the harshest and the friendliest rule, and how many queries differ."""
    by_rule = [
        {prefix: side.numbers(rule) for prefix, side in sides.items()} for rule in ("against", "favour")
    ]
    found: dict[str, tuple[tuple[float, float], int]] = {}
    for prefix, side in sides.items():
        folds = [side.fold == fold for fold in np.unique(side.fold)]
        for name in (f"r{k}" for k in side.recalls):
            harsh, friendly = (numbers[prefix][name] for numbers in by_rule)
            ends = [float(np.mean([each[fold].mean() for fold in folds])) for each in (harsh, friendly)]
            found[prefix + name] = (ends[0], ends[1]), int((harsh != friendly).sum())
    if have_sums(sides):
        low, high = (sum(ends[place] for ends, _ in found.values()) for place in (0, 1))
        count, tied = len(found), sum(differing for _, differing in found.values())
        found["rsum"] = (low, high), tied
        found["mean_recall"] = (low / count, high / count), tied
    return found


def _chances(sides: Sides) -> dict[str, float]:
    """Return the recalls that random scores without ties are expected to have."""
    found = {}
    for prefix, side in sides.items():
        shape = [int(each.max()) + 1 for each in (side.fold, side.relevant, side.gallery)]
        alike = np.ravel_multi_index((side.fold, side.relevant, side.gallery), shape)
        _, first, counts = np.unique(alike, return_index=True, return_counts=True)
        fold = side.fold[first]
        for k in side.recalls:
            hit = chance_of_hit(side.relevant[first], side.gallery[first], k)
            of_folds = [np.average(hit[fold == one], weights=counts[fold == one]) for one in np.unique(fold)]
            found[f"{prefix}r{k}"] = 100.0 * float(np.mean(of_folds))
    if have_sums(sides):
        found["rsum"] = sum(found.values())
        found["mean_recall"] = found["rsum"] / (len(found) - 1)
    for prefix, side in sides.items():
        if "r_precision" in side.precisions:
            found[f"{prefix}r_precision"] = 100.0 * float(np.mean(side.relevant / side.gallery))
        if "map_at_r" in side.precisions:
            found[f"{prefix}map_at_r"] = 100.0 * float(np.mean(chance_of_precision(side)))
    return found


def have_sums(sides: Sides) -> bool:
    """Tell whether papers add up the recalls of `sides`: those at 1, 5 and 10 of images and captions."""
    recalls = {side.recalls for side in sides.values()}
    return set(sides) <= {"i2t_", "t2i_"} and recalls == {(1, 5, 10)}


def chance_of_precision(side: Side) -> np.ndarray:
    """Return the expected average precision at R [Q] of a shuffled gallery.

    An item at place r is relevant with probability R / G, and then each one before it with probability
    (R - 1) / (G - 1).
    """
    found = np.empty(len(side.relevant))
    for relevant, gallery in set(zip(side.relevant.tolist(), side.gallery.tolist(), strict=True)):
        place = np.arange(1, relevant + 1)
        before = (place - 1) * (relevant - 1) / max(1, gallery - 1)
        expected = (relevant / gallery * (1 + before) / place).sum() / relevant
        found[(side.relevant == relevant) & (side.gallery == gallery)] = expected
    return found


def chance_of_hit(relevant: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Return the probability [n] that the first `k` of `gallery` [n] shuffled items hold a relevant one.

    It is one minus the hypergeometric probability of none.
    """
    none = np.ones(len(relevant))
    for place in range(min(k, int(gallery.max(initial=0)))):
        left = gallery - place
        none *= np.where(left > 0, np.maximum(gallery - relevant - place, 0) / np.maximum(left, 1), 0)
    return 1 - none


def describe(one: Certified) -> str:
    """Return `17.4 ± 0.9 (tie 17.1–17.9, chance 0.5)`."""
    half = (one.interval.high - one.interval.low) / 2
    besides = []
    if one.tie is not None:
        besides.append(f"tie {one.tie[0]:.1f}–{one.tie[1]:.1f}" if one.tied else "no tie")
    if one.chance is not None:
        besides.append(f"chance {one.chance:.1f}")
    return f"{one.value:.1f} ± {half:.1f}" + (f" ({', '.join(besides)})" if besides else "")
