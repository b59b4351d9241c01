"""Paired comparison of results: differences with intervals, sign-flip tests, and what they show in words.

Two results of the same queries are compared query by query: what differs between queries, such as hard and
easy pictures, cancels. Several seeds of one recipe are one entry, whose seeds are averaged first; how much
they vary is told apart from how much the images do.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from engine.certificates.bootstrap import RESAMPLES, Interval, Stratum, bca, left_out, replicates
from engine.certificates.sides import strata_of, with_sums
from engine.certificates.stored import RANKS_FILE, StoredRanks, read_ranks, title_of

ALPHA = 0.05
# What may differ between the seeds of one recipe: where things lie, and how fast they were made.
_NOT_RECIPE = ("OUTPUT", "RUNTIME", "MONITOR")
_NOT_RECIPE_KEYS = (
    "MISC.SEED",
    "MISC.NUM_WORKERS",
    "EVAL.CHECKPOINT_DIR",
    "EVAL.RESAMPLES",
    "EVAL.LIST_LENGTH",
    "DATASET.DATA_DIR",
)
_PROTOCOL = (
    "split",
    "images",
    "captions",
    "queries",
    "gallery",
    "folds",
    "tie_rule",
    "relevance",
    "left_out",
)
_OF_QUERIES = ("query", "owner", "fold")  # arrays of a `Side` that say which queries it has


@dataclass(frozen=True)
class StoredResult:
    """A `result.json` and the ranks beside it."""

    folder: Path
    content: dict
    ranks: StoredRanks


@dataclass(frozen=True)
class Entry:
    """One recipe: its name and the results of its seeds."""

    name: str
    results: list[StoredResult]

    def values(self, metric: str) -> np.ndarray:
        """Return the value of `metric` of each seed; raise UserError for a result without it."""
        for each in self.results:
            value = each.content["metrics"].get(metric)
            if type(value) not in (int, float):
                raise UserError(
                    f"{each.folder / 'result.json'}: expected a number for {metric}, got {_shown(value)}: "
                    "evaluate again"
                )
        return np.array([each.content["metrics"][metric] for each in self.results])


@dataclass(frozen=True)
class Difference:
    """How far the first entry is above the other one on a metric, in its units.

    `interval` is of 95% over images; `p` is that of the sign-flip test and `adjusted` Holm's, over all
    differences that were tested together. `seeds` is the standard error of the difference over seeds, None
    where neither entry has several.
    """

    first: str
    other: str
    metric: str
    value: float
    interval: Interval
    p: float
    adjusted: float
    seeds: float | None

    @property
    def shown(self) -> bool:
        """Tell whether the two are distinguishable, by images and, where there are several, by seeds."""
        return self.adjusted < ALPHA and (self.seeds is None or abs(self.value) > 2 * self.seeds)

    def sentence(self) -> str:
        """Return the finding in words."""
        if self.shown:
            verdict = f"{self.first} is {'above' if self.value > 0 else 'below'} {self.other}"
        else:
            verdict = f"{self.first} is not distinguishable from {self.other}"
        seeds = "" if self.seeds is None else f", standard error over seeds {self.seeds:.1f}"
        return (
            f"{verdict} on {title_of(self.metric)}: {_signed(self.value)}, 95% {_signed(self.interval.low)}"
            f" to {_signed(self.interval.high)} (p {self.p:.4f}, with Holm {self.adjusted:.4f}{seeds})"
        )


def read_result(path: Path) -> StoredResult:
    """Return the result in the folder `path`, or the one whose `result.json` it is.

    Raises UserError for a result that is missing, damaged, or without its ranks.
    """
    folder = path.parent if path.name == "result.json" else path
    file = folder / "result.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not _is_result(content):
            raise ValueError("of another layout")
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}), expected a result of tools/eval_retrieval.py"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not a result of tools/eval_retrieval.py: evaluate again") from error
    return StoredResult(folder, content, read_ranks(folder / RANKS_FILE))


def _is_result(content: dict) -> bool:
    """Return whether JSON has the parts that evaluation writes, each of its own type."""
    checkpoint = content.get("checkpoint", {})
    members = checkpoint.get("members", []) if isinstance(checkpoint, dict) else None
    return (
        all(type(value) in (int, float) for value in content["metrics"].values())
        and isinstance(content["protocol"], dict)
        and all(isinstance(keys, dict) for keys in content["config"].values())
        and isinstance(content["config"].get("MISC", {}).get("SEED"), int | None)
        and isinstance(members, list)
        and all(isinstance(member, dict) for member in members)
    )


def entries_of(results: Sequence[StoredResult]) -> list[Entry]:
    """Return the recipes of `results`, in order; those that differ in the seed alone are one.

    Two results of one recipe and one seed, such as those of two checkpoints of a run, are entries each.
    Raises UserError for results that cannot be compared query by query.
    """
    check_comparable(results)
    by_recipe: dict[str, list[StoredResult]] = {}
    settings = [_settings(result) for result in results]
    known = set.intersection(*(set(each) for each in settings))  # an older toolkit has fewer keys
    for result, own in zip(results, settings, strict=True):
        recipe = json.dumps({key: own[key] for key in sorted(known)}, sort_keys=True)
        by_recipe.setdefault(recipe, []).append(result)
    for recipe, same in list(by_recipe.items()):
        if len({_seed(each) for each in same}) < len(same):
            del by_recipe[recipe]
            by_recipe |= {f"{recipe} {each.folder}": [each] for each in same}
    names = [_name(each) for each in by_recipe.values()]
    if len(set(names)) < len(names):
        names = [str(each[0].folder) for each in by_recipe.values()]
    return [Entry(name, each) for name, each in zip(names, by_recipe.values(), strict=True)]


def check_comparable(results: Sequence[StoredResult]) -> None:
    """Raise UserError that names the first difference in protocol or queries between the results."""
    first = results[0]
    for other in results[1:]:
        for key in _PROTOCOL:
            ours, theirs = (each.content["protocol"].get(key) for each in (first, other))
            if ours != theirs:
                raise UserError(
                    f"{other.folder}: {key} is {_shown(theirs)} in its protocol, {_shown(ours)} in that of "
                    f"{first.folder}: compare results of one protocol"
                )
        for name, digest in first.ranks.digests.items():
            if other.ranks.digests.get(name) == digest or name.startswith("sorted_"):
                continue
            alike = first.ranks.digests.get(f"sorted_{name}") == other.ranks.digests.get(f"sorted_{name}")
            what = f"the same {name} in another order" if alike else f"other {name}"
            raise UserError(
                f"{other.folder}: {what} than {first.folder}: ranks are compared query by query, so evaluate "
                "both on the same files"
            )
        for prefix, side in first.ranks.sides.items():
            theirs = other.ranks.sides.get(prefix)
            if theirs is None or any(
                not np.array_equal(getattr(side, name), getattr(theirs, name)) for name in _OF_QUERIES
            ):
                direction = {"i2t_": "images", "t2i_": "captions"}.get(prefix, "pictures")
                raise UserError(
                    f"{other.folder}: other {direction} are queries, or in other folds, than in "
                    f"{first.folder}: evaluate both on the same files"
                )


def compare(
    entries: Sequence[Entry],
    metrics: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Return the differences between the first of `entries` and each other one.

    `metrics` are names in `result.json` (default: all recalls, precisions and their sum). Raises UserError
    for a metric that is no mean over queries.
    """
    rows = []
    for other in entries[1:]:
        rows += _differences(entries[0], other, metrics, resamples, seed)
    adjusted = holm([row[4] for row in rows])
    return [
        Difference(entries[0].name, *row[:5], value, row[5])
        for row, value in zip(rows, adjusted, strict=True)
    ]


def _differences(
    first: Entry, other: Entry, metrics: Sequence[str], resamples: int, seed: int
) -> list[tuple[str, str, float, Interval, float, float | None]]:
    sides = first.results[0].ranks.sides
    strata, names = _mean_strata(first)
    others, _ = _mean_strata(other)
    apart = [
        Stratum(ours.sums - theirs.sums, ours.counts) for ours, theirs in zip(strata, others, strict=True)
    ]
    added = np.concatenate([each.sums / each.counts.sum(axis=0) / len(apart) for each in apart])
    added, names = with_sums(added, names, sides)
    drawn, _ = with_sums(replicates(apart, resamples, seed)[0], names[: apart[0].sums.shape[1]], sides)
    jackknife, _ = with_sums(left_out(apart), names[: apart[0].sums.shape[1]], sides)
    wanted = list(metrics) or [name for name in names if not name.endswith(("meanr", "mean_recall"))]
    for name in wanted:
        if name not in names:
            raise UserError(f"--metrics: expected some of {', '.join(names)}, got {name}")
    p_values = sign_flip(added, resamples, seed)
    found = []
    for name in wanted:
        column = names.index(name)
        value = float(added[:, column].sum())
        interval = bca(value, drawn[:, column], jackknife[:, column])
        error = _seed_error(first.values(name), other.values(name))
        found.append((other.name, name, value, interval, float(p_values[column]), error))
    return found


def _mean_strata(entry: Entry) -> tuple[list[Stratum], list[str]]:
    """Return the strata of an entry, whose sums are means over its seeds, and the names of the means."""
    of_seeds = [strata_of(each.ranks.sides, each.ranks.tie_rule) for each in entry.results]
    strata = [
        Stratum(np.mean([each.sums for each in same], axis=0), same[0].counts)
        for same in zip(*(each[0] for each in of_seeds), strict=True)
    ]
    return strata, of_seeds[0][1]


def sign_flip(added: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return the two-sided p [M] of a sign-flip permutation test of the sums of `added` [n,M].

    If the two entries were alike, what an image adds to the difference might as well have the other sign
    (Fisher 1935). The observed signs count as one of the `resamples` + 1.
    """
    random = np.random.default_rng([seed, 1])
    observed, reached = np.abs(added.sum(axis=0)), np.ones(added.shape[1])
    slack = 1e-9 * np.abs(added).sum(axis=0)  # rounding must not decide between equal sums
    step = max(1, (1 << 18) // len(added))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        signs = random.integers(0, 2, (rows, len(added)), dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(signs @ added) >= observed - slack).sum(axis=0)
    return reached / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are adjusted for testing them together (Holm 1979, Scand. J. Stat. 6(2))."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _seed_error(first: np.ndarray, other: np.ndarray) -> float | None:
    parts = [values.var(ddof=1) / len(values) for values in (first, other) if len(values) > 1]
    return math.sqrt(sum(parts)) if parts else None


def _settings(result: StoredResult) -> dict[str, object]:
    """Return what makes up the recipe of a result by key, without the seed and the places of files."""
    flat = {
        f"{section}.{key}": value
        for section, keys in result.content["config"].items()
        if section not in _NOT_RECIPE
        for key, value in keys.items()
    }
    checkpoint = result.content.get("checkpoint", {})
    members = checkpoint.get("members", [])
    # The floor of a task file has the configuration of the network that it is the floor of.
    models = {"model": checkpoint.get("model"), "members": [member.get("model") for member in members]}
    return {key: value for key, value in flat.items() if key not in _NOT_RECIPE_KEYS} | models


def _seed(result: StoredResult) -> object:
    return result.content["config"].get("MISC", {}).get("SEED")


def _name(results: Sequence[StoredResult]) -> str:
    """Return a short name: the run's, or what the names of several seeds have in common.

    The folder follows where it is not that of the run's evaluation, such as floor_test.
    """
    names = [each.content["config"].get("OUTPUT", {}).get("SAVE_NAME", str(each.folder)) for each in results]
    common = (
        names[0] if len(names) == 1 else _common_start(names).rstrip("_-.0123456789").removesuffix("_seed")
    )
    if not common:
        return str(results[0].folder)
    folders = {each.folder.resolve().name for each in results}
    usual = f"eval_{results[0].content['protocol'].get('split')}"
    return common if len(folders) > 1 or folders == {usual} else f"{common} ({folders.pop()})"


def precision_note(entries: Sequence[Entry]) -> str:
    """Return a line about results that were computed in other precisions; empty where all are of one."""
    found = {
        entry.name: sorted({each.content["protocol"].get("precision", "float32") for each in entry.results})
        for entry in entries
    }
    if len({each for names in found.values() for each in names}) < 2:
        return ""
    each = ", ".join(f"{name} in {' and '.join(names)}" for name, names in found.items())
    return f"note: {each}: their differences hold what the precision changes (docs/precision.md)"


def _common_start(names: Sequence[str]) -> str:
    shortest = min(names, key=len)
    ends = (place for place, letter in enumerate(shortest) if any(name[place] != letter for name in names))
    return shortest[: next(ends, len(shortest))]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
