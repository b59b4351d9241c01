"""The report of one or several runs: recalls, word order, training curves, and examples with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.families import FAMILIES
from engine.certificates.sides import Certified
from engine.evaluation.result import Result
from engine.ranking.metrics import METRICS
from engine.tasks.task import ReportedRun
from serving.reports.curves import draw_curves, draw_reranking, working_seconds
from serving.reports.examples import (
    best_captions,
    comparisons,
    example,
    image_examples,
    relating_captions,
    worst_captions,
)
from serving.reports.explanation_page import ExplanationSection, report_sections
from serving.reports.pages import write_page
from serving.reports.pictures import PictureFolder, image_uri
from serving.reports.verdict import Judged, chance_row, verdict
from serving.splits.split_searcher import SplitSearcher

COLUMNS = (
    *(f"{direction}_{name}" for direction in ("i2t", "t2i") for name in METRICS),
    "rsum",
    "mean_recall",
)
COLOURS = ("#2f6db5", "#d9822b", "#7b52ab", "#17879c", "#b8436d", "#6b7280")
FOUND = {
    "t2i_r1": "sentences find their own picture first",
    "i2t_r1": "pictures find one of their own sentences first",
}
RELATING_MARK = 65.0  # percent of swapped captions that a model with a graph should tell from the true ones


@dataclass
class RunReport:
    """One run of the report: its name, its family, its model as a searcher of the split, and its result.

    `log` holds the records of log.jsonl. `swapped` is the percentage of swapped captions that the model
    tells from the true ones, by kind and for `all`; it is empty if the split has none. `rerank` is the field
    of that name in `result.json`; it is empty without re-ranking. `certified` are intervals and chance levels
    by metric, empty if none were computed, and `settings` say how the run was made.
    """

    name: str
    family: str
    searcher: SplitSearcher
    result: Result
    log: list[dict]
    swapped: dict[str, float]
    rerank: dict = field(default_factory=dict)
    certified: dict[str, Certified] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, reported: ReportedRun, batch_size: int) -> "RunReport":
        """Return the run that `engine.tasks.dual.reports` measured, under the `name` that the page shows."""
        searcher = SplitSearcher(reported.model, reported.dataset, batch_size, reported.image_embeddings)
        return cls(
            name,
            reported.checkpoint["model"],
            searcher,
            reported.result,
            reported.log,
            reported.swapped,
            reported.rerank,
            reported.certified,
            reported.settings,
        )

    @property
    def judged(self) -> Judged:
        """Return the run as a verdict sees it."""
        return Judged(self.name, self.result.metrics, self.certified)

    @property
    def parameters(self) -> int:
        """Return the number of the model's parameters."""
        return sum(parameter.size for parameter in self.searcher.model.parameters())

    @property
    def seconds(self) -> float:
        """Return the seconds that training worked, from the first log record on."""
        return working_seconds(self.log)[-1] if self.log else 0.0


@dataclass(frozen=True)
class Cell:
    """One number of a table, None for an empty cell; `best` marks the best number of a column."""

    value: float | None
    best: bool


def write_report(path: Path, title: str, runs: list[RunReport], pictures: PictureFolder) -> Path:
    """Write the page and return its path; best hits, worst misses and queries by picture are the first run's.

    Raises UserError if the page cannot be written.
    """
    colours = {run.name: colour for run, colour in zip(runs, cycle(COLOURS), strict=False)}
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.swapped))
    values = {
        "title": title,
        "runs": runs,
        "protocol": runs[0].result.protocol,
        "pictures": pictures,
        "colours": colours,
        "columns": METRICS.values(),
        "recalls": mark_best([run.result.metrics for run in runs], COLUMNS),
        "column_names": COLUMNS,
        "chance": chance_row([run.judged for run in runs], COLUMNS),
        "verdict": verdict([run.judged for run in runs], FOUND, "rsum", "the sum of recalls"),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "swapped": mark_best([run.swapped for run in runs], kinds),
        "verdicts": [relating_verdict(run) for run in runs if FAMILIES[run.family].has_graph and run.swapped],
        "curves": image_uri(draw_curves([(run.name, colours[run.name], run.log) for run in runs]), "png"),
        "reranked": [_reranked(run, colours[run.name]) for run in runs if run.rerank],
        "looks": {run.name: _looks(run, pictures) for run in runs if FAMILIES[run.family].has_graph},
        **_examples(runs[0]),
        **(_comparisons(runs) if len(runs) > 1 else {}),
    }
    return write_page(path, "report.html", values)


def refuse_others(first: RunReport, other: RunReport) -> None:
    """Raise UserError unless two runs have the same images, captions, folds and tie rule."""
    ours, theirs = first.searcher.dataset, other.searcher.dataset
    alike = {
        "images": ours.image_ids == theirs.image_ids,
        "captions": ours.captions == theirs.captions,
        "EVAL.FOLDS": first.result.protocol["folds"] == other.result.protocol["folds"],
        "EVAL.TIE_RULE": first.result.protocol["tie_rule"] == other.result.protocol["tie_rule"],
    }
    different = [what for what, same in alike.items() if not same]
    if different:
        raise UserError(
            f"{other.name} was measured with other {different[0]} than {first.name}, expected the same in "
            "all runs of a report; write a report on each"
        )


def mark_best(rows: Sequence[dict[str, float]], columns: Sequence[str]) -> list[dict[str, Cell]]:
    """Return the table of `columns`, rounded to one decimal, with the best numbers of each column marked.

    No number is marked in a column of equal numbers.
    """
    table: list[dict[str, Cell]] = [{} for _ in rows]
    for column in columns:
        shown = [round(row[column], 1) if column in row else None for row in rows]
        known = [value for value in shown if value is not None]
        best = (min if _lower_is_better(column) else max)(known, default=None)
        for cells, value in zip(table, shown, strict=True):
            cells[column] = Cell(value, value == best and len(set(known)) > 1)
    return table


def _lower_is_better(column: str) -> bool:
    metric = METRICS.get(column.partition("_")[2])
    return metric is not None and metric.lower_is_better


def relating_verdict(run: RunReport) -> str:
    """Return a sentence on how well a model that relates regions tells swapped captions from true ones."""
    accuracy = run.swapped["all"]
    kinds = ", ".join(f"{kind} {value:.1f}" for kind, value in run.swapped.items() if kind != "all")
    short = f"{RELATING_MARK - accuracy:.1f} points short of" if accuracy < RELATING_MARK else "above"
    return (
        f"{run.name} tells {accuracy:.1f}% of the pairs apart ({kinds}): {short} the {RELATING_MARK:.0f}% "
        f"that a model which relates regions ({run.family}) should reach."
    )


def _reranked(run: RunReport, colour: str) -> dict:
    """Return what the page shows of a re-ranking: a table of both stages, and curves over the cost."""
    rerank = run.rerank
    after = {kind: rerank["swapped"][kind] for kind in run.swapped} if "swapped" in rerank else {}
    return {
        "name": run.name,
        "model": rerank["checkpoint"]["model"],
        "k": rerank["k"],
        "pairs": rerank["pairs_scored"],
        "share": 100 * rerank["pairs_scored"] / rerank["all_pairs"],
        "recalls": mark_best([run.result.metrics, rerank["metrics"]], COLUMNS),
        "swapped": mark_best([run.swapped, after], list(after)),
        "curves": image_uri(draw_reranking(rerank, run.result.metrics, colour), "png"),
    }


def _examples(run: RunReport) -> dict:
    searcher, ranks = run.searcher, run.result.t2i_ranks
    caption_image = searcher.dataset.caption_image
    return {
        "best": [example(searcher, row, ranks) for row in best_captions(ranks, caption_image)],
        "worst": [example(searcher, row, ranks) for row in worst_captions(ranks, caption_image)],
        "image_examples": image_examples(searcher, run.result.i2t_ranks),
    }


def _looks(run: RunReport, pictures: PictureFolder) -> list[ExplanationSection]:
    """Return the explanations of the best and of the worst captions of a run, one of each."""
    ranks, caption_image = run.result.t2i_ranks, run.searcher.dataset.caption_image
    captions = best_captions(ranks, caption_image, 1) + worst_captions(ranks, caption_image, 1)
    return report_sections(run.searcher, captions, pictures)


def _comparisons(runs: list[RunReport]) -> dict:
    captions = runs[0].searcher.dataset.captions
    relating = relating_captions(captions)
    candidates = relating if len(relating) else np.arange(len(captions))
    searchers = {run.name: run.searcher for run in runs}
    ranks = {run.name: run.result.t2i_ranks for run in runs}
    return {
        "comparisons": comparisons(searchers, ranks, candidates),
        "candidates": len(candidates),
        "relating": len(relating) > 0,
    }
