"""A report compares runs: the best of each column, word order, and what each finds for the same sentences."""

import dataclasses
import re

import numpy as np
import pytest

from config.errors import UserError
from engine.evaluation.dual import evaluate
from serving.reports.pictures import PictureFolder
from serving.reports.report import (
    COLUMNS,
    RunReport,
    mark_best,
    refuse_others,
    relating_verdict,
    write_report,
)

LOG = [
    {"event": "train", "step": 10, "epoch": 1.0, "loss": 3.0, "time": 1.0},
    {"event": "train", "step": 20, "epoch": 2.0, "loss": 2.0, "time": 3.0},
    {"event": "validation", "step": 20, "mean_recall": 31.0, "time": 4.0},
]


@pytest.fixture
def run(searcher) -> RunReport:
    """Return a run of the tiny model, evaluated."""
    result = evaluate(searcher.model, searcher.dataset, "test")
    return RunReport("first", "vsepp", searcher, result, LOG, {"all": 51.5, "sides": 49.0})


def another(run: RunReport, **changes) -> RunReport:
    """Return a run that found every picture first."""
    result = run.result
    metrics = {name: 1.0 if "_me" in name else 100.0 for name in result.metrics} | {"rsum": 600.0}
    perfect = dataclasses.replace(
        result, metrics=metrics, i2t_ranks=0 * result.i2t_ranks, t2i_ranks=0 * result.t2i_ranks
    )
    return dataclasses.replace(
        run, **{"name": "second", "result": perfect, "swapped": {}, "log": [], **changes}
    )


def written(tmp_path, runs, pictures) -> str:
    return write_report(tmp_path / "report.html", "A title", runs, pictures).read_text()


def test_a_report_compares_runs_and_shows_examples(run, pictures, tmp_path):
    page = written(tmp_path, [run, another(run)], pictures)
    assert "Split test: 6 images" in page and "Best hits" in page and "Worst misses" in page
    assert f"<td>{run.result.metrics['rsum']:.1f}</td>" in page
    better = [name for name in COLUMNS if run.result.metrics[name] not in (1.0, 100.0)]
    assert page.count('<td class="best">') == len(better), "each of the second run"
    assert "None finds it first" not in page and "Only second finds it first" in page
    weights = sum(weight.size for weight in run.searcher.model.parameters())
    assert page.count(f"<td>{weights / 1e6:.2f}</td>") == 2 and "<td>3 s</td>" in page
    assert "http" not in page, "nothing is fetched from anywhere"
    assert set(re.findall(r'src="([^,]*),', page)) == {"data:image/jpeg;base64", "data:image/png;base64"}


def test_a_report_shows_which_pictures_are_nearest_to_a_picture(run, pictures, tmp_path):
    section = written(tmp_path, [run], pictures).partition("Pictures find sentences and pictures")[2]
    first = run.searcher.dataset.image_ids[0]
    (nearest, *_) = run.searcher.images_for_image(run.searcher.images[:1], 5, leave_out=first)
    asked, found = re.findall(r'alt="([^"]*)"', section)[:2]
    assert (asked, found) == (first, nearest.name)
    assert f"{nearest.name}</span> {nearest.score:.3f}" in section


def test_the_heads_of_the_table_span_its_columns(run, pictures, tmp_path):
    groups, heads, row = re.findall(r"<tr.*?</tr>", written(tmp_path, [run], pictures), re.DOTALL)[:3]
    spans = [int(span or 1) for span in re.findall(r'<th(?: colspan="(\d)")?>', groups)]
    assert sum(spans) == heads.count("<th>") == row.count("<td") == 1 + len(COLUMNS) + 2


def test_long_ids_are_wrapped_and_stay_whole(run, pictures, tmp_path):
    long = ["COCO_val2014_" + 60 * str(number) for number in range(6)]
    run.searcher.dataset.image_ids[:] = long
    run.searcher.image_index.ids = np.array(long)
    page = written(tmp_path, [run], pictures)
    assert "figure { margin: 0; width: 160px; overflow-wrap: anywhere;" in page
    assert f'<span class="id" title="{long[0]}">{long[0]}</span>' in page


def test_a_report_of_one_run_compares_nothing(run, pictures, tmp_path):
    page = written(tmp_path, [run], pictures)
    assert 'class="best"' not in page and "The same sentences" not in page and "51.5" in page


def test_a_report_without_misses_says_so_and_lists_no_hit_among_them(run, pictures, tmp_path):
    page = written(tmp_path, [another(run)], pictures)
    assert "None: every sentence found its own picture first" in page
    assert "rank 1 of" not in page and "Word order" not in page


def test_a_report_without_hits_says_so(run, pictures, tmp_path):
    missed = dataclasses.replace(run.result, t2i_ranks=0 * run.result.t2i_ranks + 3)
    page = written(tmp_path, [dataclasses.replace(run, result=missed)], pictures)
    assert "No sentence found its own picture first; these came nearest" in page and "rank 4" in page


def test_the_best_of_each_column_is_marked():
    rows = [{"r": 10.04, "i2t_medr": 3.0, "x": 5.0}, {"r": 9.0, "i2t_medr": 2.0, "x": 5.0}, {"r": 9.96}]
    table = mark_best(rows, ["r", "i2t_medr", "x"])
    assert [[cells[name].best for cells in table] for name in ("r", "i2t_medr", "x")] == [
        [True, False, True],  # both are shown as 10.0
        [False, True, False],  # a smaller rank is better
        [False, False, False],  # none is better than another
    ]
    assert table[2]["x"].value is None


@pytest.mark.parametrize(
    ("accuracy", "says"), [(58.26, "6.7 points short of the 65%"), (65.0, "above the 65%")]
)
def test_a_model_that_relates_regions_is_held_against_its_mark(run, pictures, tmp_path, accuracy, says):
    swapped = {"all": accuracy, "colours": 70.0, "sides": 46.5}
    relating = dataclasses.replace(run, name="graph", family="vsrn", swapped=swapped)
    verdict = relating_verdict(relating)
    assert f"graph tells {accuracy:.1f}% of the pairs apart (colours 70.0, sides 46.5): " in verdict
    assert says in verdict
    assert verdict in written(tmp_path, [run, relating], pictures)
    assert "points short of" not in written(tmp_path, [run, another(run)], pictures), "no such model"


def test_runs_measured_otherwise_are_not_compared(run):
    refuse_others(run, another(run))
    folded = dataclasses.replace(run.result, protocol={**run.result.protocol, "folds": 2})
    with pytest.raises(
        UserError, match="second was measured with other EVAL.FOLDS than first.*report on each"
    ):
        refuse_others(run, another(run, result=folded))
    run_of_others = another(run)
    run_of_others.searcher.dataset.image_ids = ["else"]
    refuse_others(run, run_of_others)  # the two share the data set


def test_a_report_shows_where_a_model_of_regions_looked(vsrn, pictures, tmp_path):
    result = evaluate(vsrn.model, vsrn.dataset, "test")
    run = RunReport("graph", "vsrn", vsrn, result, LOG, {})
    page = written(tmp_path, [run], pictures)
    assert "Where graph looked" in page and page.count("What the graph listened to</h3>") in (1, 2)
    assert page.count(">generated</td>") == page.count("What the graph listened to</h3>")
    assert "Where graph looked" not in written(tmp_path, [run], PictureFolder(None))


def test_a_re_ranked_run_shows_both_stages(run, pictures, tmp_path):
    points = [
        {"k": k, "pairs_scored": 30 * k, "metrics": {**run.result.metrics, "rsum": 600.0 + k}} for k in (1, 2)
    ]
    rerank = {
        "k": 2,
        "pairs_scored": 60,
        "all_pairs": 180,
        "metrics": points[-1]["metrics"],
        "curve": points,
        "swapped": {"all": 88.5, "sides": 77.5},
        "checkpoint": {"model": "oscar"},
    }
    page = written(tmp_path, [dataclasses.replace(run, rerank=rerank)], pictures)
    assert "Re-ranked: first, then oscar" in page and "60 pairs, 33.3% of those" in page
    assert '<td class="best">602.0</td>' in page and '<td class="best">88.5</td>' in page
    groups, heads, row = re.findall(r"<tr.*?</tr>", page[page.index("Re-ranked") :], re.DOTALL)[:3]
    spans = [int(span or 1) for span in re.findall(r'<th(?: colspan="(\d)")?>', groups)]
    assert sum(spans) == heads.count("<th>") == row.count("<td") == 1 + len(COLUMNS) + 2
    assert "Re-ranked" not in written(tmp_path, [run], pictures)


def test_a_metric_that_an_earlier_result_lacks_is_a_dash(run, pictures, tmp_path):
    before = {name: value for name, value in run.result.metrics.items() if name != "i2t_r10"}
    rerank = {
        "k": 1,
        "pairs_scored": 30,
        "all_pairs": 180,
        "metrics": before,
        "curve": [{"k": 1, "pairs_scored": 30, "metrics": before}],
        "checkpoint": {"model": "oscar"},
    }
    page = written(tmp_path, [dataclasses.replace(run, rerank=rerank)], pictures)
    assert page[page.index("Re-ranked") :].count("<td>–</td>") == 1
