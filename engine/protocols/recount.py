"""One file of scores counted in every convention side by side, which explains why two papers differ."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.pairs import folds_of_images
from engine.protocols.scored import Scored
from engine.ranking.counter import TIE_RULES, lower_index_ranks
from engine.ranking.metrics import RECALLS, summarize
from engine.ranking.ranks import Question

LOWER_INDEX = "lower index"


@dataclass(frozen=True)
class Row:
    """A convention in words, its six recalls by name (or some of them), and the sum that it reports."""

    convention: str
    recalls: dict[str, float]
    total: float | None = None
    note: str = ""


def conventions(scored: Scored) -> list[Row]:
    """Return the numbers of `scored` in every convention.

    Folds are counted where the images divide by five.
    """
    ranks = _ranks(scored, 1)
    rows = [_recalls(f"one list, ties {rule}", found) for rule, found in ranks.items()]
    hits, shares = _several_captions(scored)
    if (scored.relevance.of_images > 1).any():
        rows += [
            Row("one list, captions as recall: right ones in the first K / all right ones", shares),
            Row("one list, captions as precision: right ones in the first K / K", hits),
        ]
    if len(scored.image_ids) % 5 == 0 and len(scored.image_ids) >= 5:
        folds = _ranks(scored, 5)
        rows += [_recalls(f"five folds, ties {rule}", found, scored) for rule, found in folds.items()]
        rows += list(_printed(folds["against"], scored))
    return rows


def _ranks(scored: Scored, folds: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the ranks [I] and [T] of both directions by tie rule."""
    fold = folds_of_images(scored.shape[0], folds)
    question = Question(scored.relevance, fold, fold[scored.caption_image])
    [counters] = scored.counters([question], "against")
    found = {rule: tuple(counter.ranks(rule) for counter in counters) for rule in TIE_RULES}
    found[LOWER_INDEX] = tuple(
        _lower_index(scored, direction, question if direction == "i2t" else question.turned())
        for direction in ("i2t", "t2i")
    )
    return found


def _lower_index(scored: Scored, direction: str, question: Question) -> np.ndarray:
    queries, gallery = question.relevance.shape
    found = np.empty(queries, np.int64)
    for start in range(0, queries, 128):
        rows = np.arange(start, min(start + 128, queries))
        competing = question.image_fold[rows, None] == question.caption_fold
        right = question.relevance.are_right(rows[:, None], np.arange(gallery)) & competing
        scores = np.where(competing, scored.rows(direction, rows), -np.inf)
        found[rows] = lower_index_ranks(scores, right)
    return found


def _recalls(convention: str, ranks: tuple[np.ndarray, np.ndarray], scored: Scored | None = None) -> Row:
    summary = _mean_of_folds(ranks, scored) if scored else summarize(*ranks)
    recalls = {f"{side}_r{k}": summary[f"{side}_r{k}"] for side in ("i2t", "t2i") for k in RECALLS}
    return Row(convention, recalls, summary["rsum"])


def _mean_of_folds(ranks: tuple[np.ndarray, np.ndarray], scored: Scored) -> dict[str, float]:
    fold = folds_of_images(scored.shape[0], 5)
    own = fold[scored.caption_image]
    parts = [summarize(ranks[0][fold == each], ranks[1][own == each]) for each in range(5)]
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def _several_captions(scored: Scored) -> tuple[dict[str, float], dict[str, float]]:
    """Return precision and recall among the first K captions of each image; the lower index wins ties."""
    images, gallery = scored.shape
    found = {k: np.zeros(images) for k in RECALLS}
    for start in range(0, images, 128):
        rows = np.arange(start, min(start + 128, images))
        order = np.argsort(-scored.rows("i2t", rows), axis=1, kind="stable")[:, : max(RECALLS)]
        right = scored.relevance.are_right(rows[:, None], order)
        for k in RECALLS:
            found[k][rows] = right[:, :k].sum(axis=1)
    counts = np.maximum(1, scored.relevance.of_images)
    precision = {f"i2t_r{k}": 100 * float((found[k] / k).mean()) for k in RECALLS}
    return precision, {f"i2t_r{k}": 100 * float((found[k] / counts).mean()) for k in RECALLS}


def _printed(ranks: tuple[np.ndarray, np.ndarray], scored: Scored) -> Iterator[Row]:
    """Yield what the five-fold summaries of other code print under their headings."""
    summary = _mean_of_folds(ranks, scored)
    means = [np.mean([summary[f"{side}_r{k}"] for k in RECALLS]) for side in ("i2t", "t2i")]
    yield Row(
        "five folds, 'rsum' of a summary that multiplies the sum by six",
        {},
        6 * summary["rsum"],
        "VSE++ with the sum in front: six times too large",
    )
    yield Row(
        "five folds, 'rsum' of a summary whose columns are shifted",
        {},
        6 * float(means[0]),
        f"VSRN, SCAN: six times the mean recall of image to text; 'average i2t' prints {means[1]:.1f}, the "
        f"mean recall of text to image, and 'average t2i' {summary['rsum']:.1f}, the sum",
    )


def format_rows(rows: list[Row]) -> list[str]:
    """Return a table with a line for each convention."""
    width = max(len(row.convention) for row in rows) + 2
    names = [f"{side}_r{k}" for side in ("i2t", "t2i") for k in RECALLS]
    lines = [" " * width + "".join(f"{name.replace('_r', ' R@'):>10}" for name in names) + f"{'rsum':>10}"]
    for row in rows:
        cells = [f"{row.recalls[name]:>10.2f}" if name in row.recalls else " " * 10 for name in names]
        total = f"{row.total:>10.2f}" if row.total is not None else ""
        lines.append(f"{row.convention:<{width}}{''.join(cells)}{total}".rstrip())
        if row.note:
            lines.append(f"{'':<{width}}{row.note}")
    return lines


def share_of_ties(scored: Scored) -> tuple[float, float]:
    """Return the percentages of images and of captions whose rank depends on the tie rule."""
    [counters] = scored.counters([Question(scored.relevance)], "against")
    apart = [counter.ranks("against") != counter.ranks("favour") for counter in counters]
    return 100 * float(apart[0].mean()), 100 * float(apart[1].mean())
