"""The sentence of a report says what the best run reaches, how sure that is, and what another reaches."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from engine.certificates.bootstrap import Interval
from engine.certificates.sides import Certified
from engine.certificates.stored import certificate_of
from engine.evaluation.dual import evaluate
from serving.reports.report import COLUMNS, FOUND, RunReport, write_report
from serving.reports.verdict import Judged, chance_row, verdict

WHAT = {"t2i_r1": "sentences find it"}


def judged(name: str, recall: float, total: float, half: float | None = None) -> Judged:
    """Return a run with an interval of `half` on each side of its numbers."""
    metrics = {"t2i_r1": recall, "rsum": total}
    certified = {
        metric: Certified(value, Interval(value - half, value + half, "bca"), chance=0.1)
        for metric, value in metrics.items()
        if half is not None
    }
    return Judged(name, metrics, certified)


def test_one_run_is_told_with_its_interval_and_chance():
    said = verdict([judged("a", 31.25, 200.0, 2.0)], WHAT, "rsum", "the sum")
    assert said == "With a, 31.2% of the sentences find it (95% interval 29.2 to 33.2, chance 0.1)."
    assert (
        verdict([judged("a", 31.25, 200.0)], WHAT, "rsum", "the sum")
        == "With a, 31.2% of the sentences find it."
    )


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (None, "it is ahead of a, 210.0 to 200.0."),
        (4.0, "it is ahead of a, 210.0 to 200.0; their 95% intervals do not touch."),
        (6.0, "their 95% intervals overlap, so this alone does not show that it is better."),
    ],
)
def test_the_best_of_several_is_compared_with_the_next(half, expected):
    runs = [judged("a", 30, 200, half), judged("b", 29, 210, half), judged("c", 2, 20, half)]
    said = verdict(runs, WHAT, "rsum", "the sum")
    assert said.startswith("With b, 29.0%") and said.endswith(expected)


def test_equal_runs_are_called_equal():
    said = verdict([judged("a", 30, 200), judged("b", 30, 200.01)], WHAT, "rsum", "the sum")
    assert said.endswith("By the sum it equals a (200.0).")


def test_chance_is_a_row_only_where_it_is_known():
    assert chance_row([judged("a", 1, 2)], ["t2i_r1", "rsum"]) == []
    assert chance_row([judged("a", 1, 2), judged("b", 1, 2, 1.0)], ["t2i_r1", "medr"]) == [0.1, None]


def test_a_report_shows_intervals_chance_verdict_and_how_it_was_made(searcher, pictures, tmp_path: Path):
    result = evaluate(searcher.model, searcher.dataset, "test")
    certified = certificate_of(result.sides, "against", 200, 0).metrics
    settings = {"data set": "tiny", "seed": "7", "epochs": "3"}
    run = RunReport("first", "vsepp", searcher, result, [], {}, certified=certified, settings=settings)
    page = write_report(tmp_path / "report.html", "A title", [run], pictures).read_text()
    assert verdict([run.judged], FOUND, "rsum", "") in page and 'class="verdict"' in page
    interval = certified["t2i_r1"].interval
    assert f'<span class="interval">{interval.low:.1f}–{interval.high:.1f}</span>' in page
    row = page.partition('<tr class="chance">')[2].partition("</tr>")[0]
    assert row.count("<td>") == 1 + len(COLUMNS) + 2
    assert f"<td>{certified['t2i_r1'].chance:.3g}</td>" in row
    assert "<td>seed</td><td>7</td>" in page and "Data set tiny, measured on 20" in page
    plain = dataclasses.replace(run, certified={}, settings={})
    page = write_report(tmp_path / "report.html", "A title", [plain], pictures).read_text()
    assert "interval" not in page.partition("<body>")[2] and "How these were made" not in page


def test_columns_that_are_certified_are_called_as_the_table_calls_them(searcher):
    """Otherwise no interval would be shown, without an error."""
    result = evaluate(searcher.model, searcher.dataset, "test")
    certified = certificate_of(result.sides, "against", 50, 0).metrics
    assert set(COLUMNS) <= set(certified) and np.isfinite(certified["rsum"].chance)
