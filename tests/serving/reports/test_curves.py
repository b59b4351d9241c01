"""Curves run over the time that a run has worked, and show something however short it was."""

import warnings

import numpy as np
import pytest
from PIL import Image

from serving.reports.curves import draw_curves, working_seconds


def at(event: str, time: float, **values) -> dict:
    return {"event": event, "time": time, **values}


def test_the_time_between_a_stop_and_its_resume_is_not_work():
    log = [
        at("train", 10.0),
        at("validation", 12.0),
        at("stopped", 13.0),
        at("train", 90.0),
        at("train", 94.0),
    ]
    assert working_seconds(log) == [0.0, 2.0, 3.0, 3.0, 7.0]
    assert working_seconds([at("failed", 1.0), at("train", 50.0)]) == [0.0, 0.0]
    assert working_seconds([]) == []


def test_a_clock_that_is_set_back_is_no_work_and_is_drawn():
    log = [at("train", 100.0, loss=3.0), at("train", 104.0, loss=2.0), at("train", 40.0, loss=1.0)]
    assert working_seconds(log) == [0.0, 4.0, 4.0]
    assert working_seconds(log[1:]) == [0.0, 0.0]
    assert draw_curves([("a", "#ff0000", log[1:])]).width > 1000


def coloured(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Count the pixels of a colour in the left and the right half of a picture."""
    same = (np.asarray(picture.convert("RGB")) == colour).all(axis=-1)
    half = same.shape[1] // 2
    return int(same[:, :half].sum()), int(same[:, half:].sum())


STEP, VALIDATION = at("train", 1.0, loss=3.0), at("validation", 2.0, mean_recall=31.0)


@pytest.mark.parametrize("loss", [3.0, 0.0, -1.0])
def test_a_single_step_is_a_dot(loss):
    picture = draw_curves([("short", "#ff0000", [{**STEP, "loss": loss}])])
    of_the_loss, of_the_recall = coloured(picture, (255, 0, 0))
    key = coloured(draw_curves([("short", "#ff0000", [])]), (255, 0, 0))
    assert of_the_loss > 30 and of_the_recall == 0 and key == (0, 0)


def test_each_run_has_its_colour_in_both_figures():
    log = [STEP, {**STEP, "time": 5.0, "loss": 1.0}, {**VALIDATION, "time": 6.0}]
    picture = draw_curves([("a", "#ff0000", log), ("b", "#0000ff", log[:1])])
    assert all(count > 30 for count in coloured(picture, (255, 0, 0)))
    assert coloured(picture, (0, 0, 255))[1] == 0, "it was never validated"


@pytest.mark.parametrize("log", [[], [STEP], [VALIDATION], [STEP, VALIDATION], [STEP, at("stopped", 2e5)]])
def test_short_runs_are_drawn_without_warnings(log):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_curves([("short", "#ff0000", log)]).width > 1000
