"""The result of an evaluation, with its protocol, as `result.json` and as text tables."""

import json
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle

from config.files.whole import write_whole
from engine.certificates.sides import Sides
from engine.certificates.stored import Certificate
from engine.ranking.counter import TiedRanks
from engine.ranking.metrics import METRICS

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """The outcome of an evaluation.

    `metrics` are those of `engine.ranking.metrics.summarize`. With several folds they are means, and `folds`
    holds the metrics of each fold; otherwise `folds` is empty. `protocol` holds split, sizes, folds, tie rule
    and measure. `i2t_ranks` [images] and `t2i_ranks` [captions] are 0-based ranks within the fold, in the
    order of the data set; `t2i_ranks` is None if image to text alone was measured. `sides` are the ranks
    that count, by direction, for the certificate, and `tied` all ranks under both answers to ties.
    `shared_sentences` is how many sentences describe several images, where a caption is right for one alone.
    """

    metrics: dict[str, float]
    protocol: dict
    folds: list[dict[str, float]]
    i2t_ranks: np.ndarray
    t2i_ranks: np.ndarray | None
    sides: Sides = field(default_factory=dict)
    tied: tuple[TiedRanks, TiedRanks] | None = None
    shared_sentences: int = 0


def write_result_json(
    path: str | Path,
    result: Result,
    checkpoint: dict,
    config: dict,
    versions: dict[str, str],
    further: dict[str, dict] | None = None,
) -> None:
    """Write `result.json`, whole or not at all.

    `checkpoint` identifies the weights (folder, SHA-256, step). `config` is the merged configuration.
    `further` holds other measurements of the same weights by name. Raises UserError if the disk refuses.
    """
    content = {
        "metrics": result.metrics,
        **(further or {}),
        "protocol": result.protocol,
        "folds": result.folds,
        "checkpoint": checkpoint,
        "versions": versions,
        "config": config,
    }
    write_whole(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_reranked(path: Path, checkpoint_sha256: str, protocol: dict) -> dict:
    """Return `rerank` of the `result.json` at `path`; empty unless it has these weights and this protocol."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        alike = content["checkpoint"]["sha256"] == checkpoint_sha256 and content["protocol"] == protocol
        return content["rerank"] if alike else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def format_table(result: Result) -> str:
    """Return the metrics as a text table, with the protocol."""
    protocol, metrics = result.protocol, result.metrics
    folds = f", mean of {protocol['folds']} folds" if protocol["folds"] > 1 else ""
    lines = [
        f"{protocol['split']}: {protocol['images']} images, {protocol['captions']} captions "
        f"({protocol['distinct_sentences']} distinct sentences), {protocol['measure']} similarity{folds}",
        "",
        f"{'':<15}" + "".join(f"{metric.heading:>10}" for metric in METRICS.values()),
    ]
    for title, direction in (("image to text", "i2t"), ("text to image", "t2i")):
        if f"{direction}_r1" not in metrics:
            continue
        values = (f"{metrics[f'{direction}_{name}']:>10.{each.decimals}f}" for name, each in METRICS.items())
        lines.append(f"{title:<15}{''.join(values)}")
    sums = f"rsum {metrics['rsum']:.2f}, mean recall {metrics['mean_recall']:.2f}"
    lines += [
        "",
        f"{sums} (recalls in percent; median and mean ranks are from 1, one more than the rule's)",
        f"ties {protocol['tie_rule']}: {protocol['tie_rule_text']}",
    ]
    if protocol.get("relevance", "image id") != "image id":
        lines.append(f"right ones by {protocol['relevance']}{_left_out(protocol['left_out'])}")
    if result.shared_sentences:
        lines.append(
            f"{result.shared_sentences} sentences describe several images, and a caption is right for its "
            "own alone: DATASET.RELEVANCE=sentence counts them all"
        )
    if bank := protocol.get("query_bank"):
        lines.append(
            f"scores normalised by {bank['images']} images and {bank['sentences']} sentences of "
            f"{bank['split']}, temperature {bank['temperature']:g}"
        )
    if "candidates_text" in protocol:
        lines.append(protocol["candidates_text"])
    return "\n".join(lines)


def _left_out(counts: dict[str, int]) -> str:
    gone = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"; left out, without a right one: {gone}" if gone else ""


def format_reranked(rerank: dict, metrics: dict[str, float]) -> str:
    """Return the entry `rerank` as a table with a row for each k, after the dual encoder's `metrics`."""
    recalls = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 10)]
    lines = [
        f"re-ranked by {rerank['checkpoint']['folder']}, step {rerank['checkpoint']['step']}:",
        "",
        f"{'k':>5}{'pairs scored':>16}{'share':>9}"
        + "".join(f"{name:>10}" for name in ["i2t R@1", "i2t R@10", "t2i R@1", "t2i R@10", "rsum"]),
    ]
    rows = [(0, 0, metrics)] + [
        (each["k"], each["pairs_scored"], each["metrics"]) for each in rerank["curve"]
    ]
    for k, pairs, found in rows:
        values = "".join(f"{found[name]:>10.2f}" for name in [*recalls, "rsum"])
        lines.append(f"{k or 'none':>5}{pairs:>16,}{pairs / rerank['all_pairs']:>9.2%}{values}")
    if rerank["weighted"]:
        sums = [f"{each['dual_weight']:g}: {each['metrics']['rsum']:.2f}" for each in rerank["weighted"]]
        lines += ["", f"rsum at k = {rerank['k']} by EVAL.RERANK_DUAL_WEIGHT: {', '.join(sums)}"]
    return "\n".join(lines)


def format_measured(
    result: Result, checkpoint: dict, further: dict, certificate: Certificate | None = None
) -> list[str]:
    """Return the lines of an evaluation: weights, table, intervals, and the `further` measurements."""
    lines = [describe_checkpoint(checkpoint, result.protocol), format_table(result)]
    lines += certificate.lines() if certificate else []
    rerank = further.get("rerank", {})
    if rerank:
        lines.append(f"\n{format_reranked(rerank, result.metrics)}\n")
    for name, found in (("", further), (" after re-ranking", rerank)):
        if "swapped" in found:
            shown = ", ".join(f"{kind} {value:.1f}" for kind, value in found["swapped"].items())
            lines.append(f"swapped captions told apart{name}, percent (chance 50): {shown}")
    return lines


def describe_checkpoint(checkpoint: dict, protocol: dict) -> str:
    """Return the line of a checkpoint; for an ensemble, a line for each member with its weight."""
    if "members" not in checkpoint:
        return f"checkpoint: {checkpoint['folder']}, step {checkpoint['step']}"
    lines = [f"mean of {len(checkpoint['members'])} models, weights {protocol['weights']}:"]
    lines += [
        f"  {member['weight']:.3f}  {member['folder']}, {member['model']}, step {member['step']}"
        for member in checkpoint["members"]
    ]
    if "tuning" in checkpoint:
        tuning = checkpoint["tuning"]
        lines.append(
            f"{tuning['metric']} on {tuning['split']}: {tuning['equal']:.2f} with equal weights, "
            f"{tuning['tuned']:.2f} with these ({tuning['evaluations']} evaluations)"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of Python, Paddle, NumPy and, in a git checkout, of the toolkit."""
    found = {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__}
    commit = _commit()
    return found | {"toolkit": commit} if commit else found


def _commit() -> str:
    """Return the checked-out commit, marked `-dirty` if tracked files differ; empty without git."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    if not (_ROOT / ".git").exists():  # an unpacked archive may lie inside somebody else's repository
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
