"""Pages carry their pictures, show what was found, and let no caption write markup."""

import warnings

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from engine.evaluator import evaluate
from serving.pages import write_search_page, write_whole
from serving.pictures import THUMBNAIL, PictureFolder, Tile, contact_sheet, image_folder
from serving.report import (
    RunReport,
    best_captions,
    curves_uri,
    training_seconds,
    worst_captions,
    write_report,
)
from serving.searcher import Hit


def test_pictures_are_found_with_and_without_their_ending(pictures):
    assert pictures.find("image_1") == pictures.find("image_1.png")
    assert pictures.find("image_77") is None
    assert PictureFolder(None).find("image_1") is None


def test_the_picture_folder_is_inside_the_data_or_absolute(tmp_path):
    (tmp_path / "images").mkdir()
    assert image_folder(str(tmp_path), "images") == tmp_path / "images"
    assert image_folder("data/x", str(tmp_path)) == tmp_path
    assert image_folder("data/x", "") is None
    with pytest.raises(UserError, match="data/x/images is not a folder"):
        image_folder("data/x", "images")


def test_a_missing_or_broken_picture_is_a_card_with_its_id(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name in ("image_77", "broken"):
        assert pictures.thumbnail(name).size == (THUMBNAIL, THUMBNAIL)


def test_a_contact_sheet_shows_every_tile(pictures):
    sheet = contact_sheet(
        "a title", [Tile(f"image_{n}", "0.5", right=n == 1) for n in range(6)], pictures, columns=3
    )
    one_row = contact_sheet("a title", [Tile("image_0", "0.5")] * 3, pictures, columns=3)
    assert sheet.height > one_row.height + THUMBNAIL
    assert sheet.width == one_row.width


def test_a_search_page_carries_its_pictures_and_escapes_text(pictures, tmp_path):
    sheet = Image.new("RGB", (10, 10))
    hits = [Hit("image_0", 0.9), Hit("image_1", 0.8)]
    png, page = write_search_page(
        tmp_path / "found", "<script>alert(1)</script>", None, hits, [Hit("a <b>", 0.5)], pictures, sheet
    )
    text = page.read_text()
    assert png.is_file()
    assert "<script>" not in text and "&lt;script&gt;" in text and "a &lt;b&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 2


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "hits.html").write_text("old")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match="cannot write .*hits.html: No space left on device; .*--out"):
        write_whole(tmp_path / "hits.html", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["hits.html"]
    assert (tmp_path / "hits.html").read_text() == "old"


def test_best_hits_and_worst_misses_are_of_different_pictures():
    caption_image = np.array([0, 0, 1, 1, 2, 2])
    ranks = np.array([0, 0, 5, 9, 0, 7])
    assert best_captions(ranks, caption_image) == [0, 4]
    assert worst_captions(ranks, caption_image) == [3, 5, 0]


def test_a_report_compares_runs_and_shows_examples(searcher, pictures, tmp_path):
    result = evaluate(searcher.model, searcher.dataset, "test")
    log = [
        {"event": "train", "step": 10, "epoch": 1.0, "loss": 3.0, "time": 1.0},
        {"event": "train", "step": 20, "epoch": 2.0, "loss": 2.0, "time": 3.0},
        {"event": "validation", "step": 20, "mean_recall": 31.0, "time": 4.0},
    ]
    runs = [RunReport("first", result, log, 3.0, swapped_accuracy=51.5), RunReport("second", result, [], 0.0)]
    page = write_report(tmp_path / "report.html", "A title", runs, searcher, pictures)
    text = page.read_text()
    assert "first" in text and "second" in text and "51.5" in text
    assert f"{result.metrics['rsum']:.1f}" in text
    assert "Best hits" in text and "Worst misses" in text
    assert "Split test: 6 images" in text
    assert "http" not in text.replace("http-equiv", "")  # nothing is fetched from anywhere


def test_the_time_between_a_stop_and_its_resume_is_not_training():
    events = [("train", 10.0), ("validation", 12.0), ("stopped", 13.0), ("train", 90.0), ("validation", 94.0)]
    assert training_seconds([{"event": event, "time": time} for event, time in events]) == 3.0 + 4.0
    assert training_seconds([]) == 0


def test_a_run_too_short_to_have_been_logged_has_empty_curves(searcher):
    result = evaluate(searcher.model, searcher.dataset, "test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert curves_uri([RunReport("short", result, [], 0.0)]).startswith("data:image/png;base64,")
