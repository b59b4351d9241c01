"""The certificate of a result in `result.json`, in tables, and in `ranks.npz` beside it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.whole import replacing
from datasets.array_files import read_npz
from engine.certificates.bootstrap import LEVEL, Interval
from engine.certificates.sides import Certified, Side, Sides, certify, describe
from engine.ranking.metrics import METRICS

RANKS_FILE = "ranks.npz"
_DIRECTIONS = {
    "i2t": "image to text",
    "t2i": "text to image",
    "i2i": "image to image",
    "t2t": "text to text",
}
_NAMES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "ndcg": "nDCG",
    "pmrp": "PMRP",
    "rsum": "rsum",
    "mean_recall": "mean recall",
}


@dataclass(frozen=True)
class Certificate:
    """The certified metrics of a result, and how the intervals were drawn."""

    metrics: dict[str, Certified]
    resamples: int
    seed: int
    over: str

    def as_dict(self) -> dict:
        """Return the entry of `result.json`."""
        return {
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "over": self.over,
            "metrics": {name: one.as_dict() for name, one in self.metrics.items()},
        }

    def lines(self) -> list[str]:
        """Return the lines of a table: each recall and sum, `17.4 ± 0.9 (tie 17.1–17.9, chance 0.5)`."""
        shown = {name: title_of(name) for name in self.metrics if not name.endswith(("medr", "meanr"))}
        width = max(map(len, shown.values()), default=0) + 2
        return [
            "",
            f"95% intervals: bootstrap over {self.over}, {self.resamples:,} resamples from seed {self.seed}",
            *(f"{title:<{width}}{describe(self.metrics[name])}" for name, title in shown.items()),
        ]


def certificate_of(
    sides: Sides, tie_rule: str, resamples: int, seed: int, over: str = "images"
) -> Certificate | None:
    """Return the certificate of the ranks `sides`; None without resamples."""
    if not resamples or not sides:
        return None
    return Certificate(certify(sides, tie_rule, resamples, seed), resamples, seed, over)


def certified_of(content: dict) -> dict[str, Certified]:
    """Return the certified metrics of the `content` of a `result.json`; empty if it has no certificate."""
    entries = content.get("certificate", {}).get("metrics", {})
    return {
        name: Certified(
            content["metrics"][name],
            Interval(entry["low"], entry["high"], entry["method"]),
            tuple(entry["tie"]) if "tie" in entry else None,
            entry.get("tied_queries"),
            entry.get("chance"),
        )
        for name, entry in entries.items()
    }


def title_of(name: str) -> str:
    """Return the words for a metric's name, such as `image to text R@1` for `i2t_r1`."""
    direction, _, short = name.partition("_")
    if direction not in _DIRECTIONS:
        direction, short = "", name
    heading = METRICS[short].heading if short in METRICS else _NAMES.get(short, f"R@{short[1:]}")
    return f"{_DIRECTIONS[direction]} {heading}" if direction else heading


def write_ranks(path: Path, sides: Sides, tie_rule: str, names: Mapping[str, Sequence[str]]) -> None:
    """Write the ranks of every query, whole or not at all, as plain arrays that NumPy reads.

    `names` are lists of names that must be alike where two results are compared, such as the ids of the
    images and the captions; their SHA-256 is stored. Raises UserError if the disk refuses.
    """
    arrays = {"tie_rule": np.asarray(tie_rule)}
    arrays |= {f"sha256_{name}": np.asarray(digest_of(values)) for name, values in names.items()}
    arrays |= {
        f"sha256_sorted_{name}": np.asarray(digest_of(sorted(values))) for name, values in names.items()
    }
    for prefix, side in sides.items():
        arrays |= {f"{prefix}{name}": array for name, array in side.arrays().items()}
        arrays[f"{prefix}recalls"] = np.asarray(side.recalls)
        arrays[f"{prefix}median"] = np.asarray(side.median)
    try:
        with replacing(path) as draft, open(draft, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error


@dataclass(frozen=True)
class StoredRanks:
    """What a `ranks.npz` holds: the ranks of every query by direction, the tie rule, and digests of names."""

    path: Path
    sides: Sides
    tie_rule: str
    digests: dict[str, str]


def read_ranks(path: Path) -> StoredRanks:
    """Return what `write_ranks` wrote; raise UserError for a file that is missing, damaged or another."""
    remedy = "expected the ranks that tools/eval_retrieval.py writes beside result.json: evaluate again"
    arrays = read_npz(path, ["tie_rule"], remedy)
    prefixes = [name.removesuffix("favour") for name in arrays if name.endswith("favour")]
    try:
        sides = {prefix: _side(arrays, prefix) for prefix in prefixes}
        if not any(len(side.query) for side in sides.values()):
            raise ValueError("ranks of any query")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: lacks {cut(error, 80)}; {remedy}") from error
    tie_rule = str(arrays["tie_rule"])
    digests = {
        name.removeprefix("sha256_"): str(array)
        for name, array in arrays.items()
        if name.startswith("sha256_")
    }
    return StoredRanks(Path(path), sides, tie_rule, digests)


def _side(arrays: dict[str, np.ndarray], prefix: str) -> Side:
    names = ("favour", "against", "query", "owner", "fold", "relevant", "gallery")
    values = [arrays[f"{prefix}{name}"].astype(np.int64) for name in names]
    start = f"{prefix}precision_"
    precisions = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
    recalls = tuple(arrays[f"{prefix}recalls"].astype(np.int64).reshape(-1).tolist())
    uneven = [each.shape for each in (*values, *precisions.values()) if each.shape != (values[0].size,)]
    if uneven:
        raise ValueError(f"{values[0].size} numbers of {prefix}, got {list(uneven[0])}")
    return Side(*values, recalls, precisions, bool(arrays[f"{prefix}median"]))


def digest_of(names: Sequence[str]) -> str:
    """Return a SHA-256 of names in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()
