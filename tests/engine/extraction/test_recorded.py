"""Further pictures are extracted as the record of a feature file says, and a damaged record is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from config.files.networks import read_backbone
from datasets.pictures.files import NamedPictures
from engine.extraction.recorded import extract_as_recorded, record_of, record_of_backbone
from models.kernels.onednn import has_bfloat16
from tests.onnx_networks import backbone_yaml, write_convolutions, write_means
from tests.other_processors import without_bfloat16


@pytest.fixture
def record(tmp_path) -> dict:
    """Return the record of a network that writes means of colours, as JSON gives it back."""
    network = write_means(tmp_path / "means.onnx")
    lines = [f"MODEL: {network}", "POOLED: pool", "GRID: grid", "SIZE: 8", "CUT: stretch", "MEAN: [0, 0, 0]"]
    (tmp_path / "means.yaml").write_text("\n".join([*lines, "SCALE: [1, 1, 1]", ""]))
    return json.loads(json.dumps(record_of_backbone(read_backbone(tmp_path / "means.yaml"))))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "half.png"
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = (100, 60, 20)
    Image.fromarray(pixels).save(path)
    return path


def extract(record, tmp_path, *paths):
    return extract_as_recorded(record, tmp_path / "a.h5", NamedPictures(paths), False, threads=1)


def test_vectors_and_grids_are_made_as_recorded(tmp_path, record, picture):
    names, [vectors], has_regions, problems = extract(record, tmp_path, picture)
    assert (names, has_regions, problems) == ([str(picture)], False, {})
    np.testing.assert_allclose(vectors, [[50, 30, 10]], atol=1e-4)
    record["options"][1] = 2
    _, [vectors], has_regions, _ = extract(record, tmp_path, picture)
    assert has_regions
    np.testing.assert_allclose(vectors, [[0, 0, 0], [100, 60, 20]] * 2, atol=1e-4)


def test_unreadable_pictures_are_told(tmp_path, record, picture):
    (tmp_path / "broken.jpg").write_bytes(b"")
    names, vectors, _, problems = extract(record, tmp_path, tmp_path / "broken.jpg", picture)
    assert names == [str(picture)] and len(vectors) == 1
    assert problems == {str(tmp_path / "broken.jpg"): "zero bytes"}


def test_a_backbone_that_is_named_serves_as_a_record(tmp_path, record, picture):
    named = record_of_backbone(read_backbone(tmp_path / "means.yaml"))
    np.testing.assert_array_equal(extract(named, tmp_path, picture)[1], extract(record, tmp_path, picture)[1])


@pytest.fixture
def lowered(tmp_path) -> dict:
    """Return the record of a network of convolutions in bfloat16."""
    backbone = backbone_yaml(tmp_path / "a.yaml", write_convolutions(tmp_path / "a.onnx"))
    return json.loads(json.dumps(record_of_backbone(read_backbone(backbone), "bfloat16")))


@pytest.mark.skipif(not has_bfloat16(), reason="no instructions for bfloat16 here")
def test_features_in_bfloat16_are_made_so_again(tmp_path, lowered, picture):
    _, [vector], *_ = extract(lowered, tmp_path, picture)
    _, [single], *_ = extract(without_precision(lowered), tmp_path, picture)
    assert 0 < np.abs(vector - single).max() < 0.05 * np.abs(single).max()


def test_where_bfloat16_is_not_to_be_had_they_are_made_in_float32(tmp_path, lowered, picture, monkeypatch):
    without_bfloat16(monkeypatch)
    _, [vector], *_ = extract(lowered, tmp_path, picture)
    _, [single], *_ = extract(without_precision(lowered), tmp_path, picture)
    np.testing.assert_array_equal(vector, single)


def without_precision(record: dict) -> dict:
    assert record["precision"] == "bfloat16"
    return {name: value for name, value in record.items() if name != "precision"}


def test_a_record_keeps_all_but_which_pictures_these_were():
    assert record_of({"pictures": "x", "backbone": {}, "options": []}) == {"backbone": {}, "options": []}


DAMAGES = {
    "no options": lambda record: record.pop("options"),
    "short options": lambda record: record["options"].pop(),
    "no backbone": lambda record: record.update(backbone=None),
    "a backbone that is text": lambda record: record.update(backbone="means"),
    "a missing key": lambda record: record["backbone"].pop("size"),
    "a size that is text": lambda record: record["backbone"].update(size="8"),
    "a mean short": lambda record: record["backbone"].update(mean=[0, 0]),
    "a kind that is none": lambda record: record["backbone"].update(kind="torch"),
    "a detector that is a list": lambda record: record.update(detector=[1]),
    "a precision that is none": lambda record: record.update(precision="int8"),
    "a precision that is a list": lambda record: record.update(precision=["float32"]),
    "a grid that is text": lambda record: record["options"].__setitem__(1, "two"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_refused_on_one_line(tmp_path, record, picture, damage):
    DAMAGES[damage](record)
    with pytest.raises(UserError, match="a.h5.*record of the extraction") as refused:
        extract(record, tmp_path, picture)
    assert "\n" not in str(refused.value)
