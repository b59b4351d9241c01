"""A report of two runs in a real browser: nothing for axe to find, and never wider than the screen."""

import dataclasses

import pytest

from engine.certificates.stored import certificate_of
from engine.evaluation.dual import evaluate
from serving.reports.report import RunReport, write_report
from tests.browser.test_page import check, save
from tests.serving.conftest import dataset, pictures, searcher  # noqa: F401

LOG = [
    *({"event": "train", "step": step, "loss": 3 / (step + 1), "time": 20.0 * step} for step in range(40)),
    {"event": "validation", "step": 40, "mean_recall": 31.0, "time": 800.0},
]


@pytest.fixture
def report(searcher, pictures, tmp_path):  # noqa: F811
    """Return the report of a run and of the same under another name."""
    result = evaluate(searcher.model, searcher.dataset, "test")
    known = {
        "certified": certificate_of(result.sides, "against", 200, 0).metrics,
        "settings": {"data set": "tiny", "seed": "7", "weights": "step 100, SHA-256 0123456789ab"},
    }
    run = RunReport("first", "vsepp", searcher, result, LOG, {"all": 51.5, "sides": 49.0}, **known)
    other = dataclasses.replace(
        run, name="a run with quite a long name", swapped={"all": 80.0, "sides": 90.0}
    )
    return write_report(tmp_path / "report.html", "Image-text retrieval", [run, other], pictures)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1440])
def test_axe_finds_nothing_in_a_report(browser, axe, report, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    save(page, f"report_{width}_{scheme}.png")
    check(page, axe, "report")
    context.close()
