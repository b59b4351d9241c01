"""The report of image encoders shows hits and misses of different classes, from folders and zip files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from datasets.image_dataset import ImageDataset
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import class_folders
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from datasets.pictures.transforms import Normalization, Stretch
from engine.certificates.stored import certificate_of
from engine.evaluation.image import EncodedPictures, ImageResult
from engine.ranking.pictures.metrics import summarize_images
from engine.ranking.pictures.ranks import image_ranks
from serving.reports.image_report import ImageRun, chosen_queries, found_pictures, write_image_report
from tests.picture_files import encoded, noisy, write_zip

# Two of class a are side by side, the third is among class b; class c is alone.
VECTORS = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99], [0.05, 0.99], [-1, 0]], np.float32)


@pytest.fixture
def run(tmp_path: Path) -> ImageRun:
    names = ["a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "c/0.png"]
    files = PictureFiles(
        write_zip(tmp_path / "p.zip", {name: encoded(noisy(40, 30, seed)) for seed, name in enumerate(names)})
    )
    pictures = class_folders(files)
    loader = PictureLoader(files, names, Stretch(16), Normalization(), Unreadables(refuse=True))
    dataset = ImageDataset("test", loader, pictures)
    vectors = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    encoded_pictures = EncodedPictures(vectors, np.arange(6), np.array(list("aaabbc")), np.arange(6))
    ranks = image_ranks(vectors, encoded_pictures.classes)
    metrics = summarize_images(ranks.ranks, ranks.average_precision, ranks.r_precision)
    protocol = {
        "split": "test",
        "images": 6,
        "classes": 3,
        "queries": 5,
        "gallery": "",
        "gallery_images": 6,
        "not_searched": 0,
        "tie_rule": "against",
        "tie_rule_text": "rank = ...",
    }
    result = ImageResult(metrics, protocol, ranks, encoded_pictures, encoded_pictures)
    return ImageRun("first", 1_500_000, result, dataset, dataset, [])


def test_hits_and_misses_are_of_different_classes(run: ImageRun) -> None:
    best, worst = chosen_queries(run.result)
    assert [run.result.queries.classes[run.result.ranks.queries[place]] for place in best] == ["a", "b"]
    assert worst[0] == 2
    assert len({run.result.queries.classes[place] for place in worst}) == len(worst)


def test_what_a_picture_found(run: ImageRun) -> None:
    found = found_pictures(run, 2)
    assert (found.query.name, found.label, found.rank) == ("a/2.png", "a", 3)
    assert [(hit.name, hit.right) for hit in found.hits][:3] == [
        ("b/1.png", False),
        ("b/0.png", False),
        ("a/1.png", True),
    ]
    assert found.own.name == "a/1.png"
    assert "a/2.png" not in [hit.name for hit in found.hits]


def test_the_page_carries_its_pictures_and_compares_runs(run: ImageRun, tmp_path: Path) -> None:
    other = dataclasses.replace(
        run,
        name="second",
        result=dataclasses.replace(run.result, metrics=dict.fromkeys(run.result.metrics, 99.9)),
    )
    page = write_image_report(tmp_path / "report.html", "Birds & bees", [run, other]).read_text()
    assert "Birds &amp; bees" in page
    assert "5 have another of their class to find" in page
    assert page.count("data:image/jpeg") >= 2 * 6
    assert '<td class="best">99.9</td>' in page
    assert "1.50" in page


def test_the_page_shows_intervals_chance_verdict_and_settings(run: ImageRun, tmp_path: Path) -> None:
    certified = certificate_of(run.result.sides, "against", 100, 0, "classes").metrics
    known = dataclasses.replace(run, certified=certified, settings={"data set": "birds", "seed": "7"})
    page = write_image_report(tmp_path / "report.html", "Birds", [known]).read_text()
    assert (
        f"With first, {run.result.metrics['r1']:.1f}% of the pictures find one of their class first" in page
    )
    interval = certified["map_at_r"].interval
    assert f'<span class="interval">{interval.low:.1f}–{interval.high:.1f}</span>' in page
    assert 'class="chance"' in page and "Data set birds" in page and "<td>seed</td><td>7</td>" in page


def test_runs_on_other_pictures_are_not_compared(run: ImageRun, tmp_path: Path) -> None:
    protocol = {**run.result.protocol, "gallery": "shop"}
    other = dataclasses.replace(run, name="second", result=dataclasses.replace(run.result, protocol=protocol))
    with pytest.raises(UserError, match="second was measured with other EVAL.GALLERY than first"):
        write_image_report(tmp_path / "report.html", "t", [run, other])
