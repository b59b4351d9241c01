"""The files of backbones and detectors are read, and a mistake in one is named with its line."""

from pathlib import Path

import pytest

from config.cnns import IMAGENET_MEAN, IMAGENET_SCALE, expected_pixels
from config.errors import UserError
from config.files.networks import read_backbone, read_detector

BACKBONES = Path(__file__).resolve().parents[3] / "configs" / "backbones"


@pytest.mark.parametrize("path", sorted(BACKBONES.iterdir()), ids=lambda path: path.name)
def test_each_shipped_file_is_read_and_says_what_it_is(path):
    read = read_detector if "yolox" in path.name else read_backbone
    network = read(path)
    assert network.path == str(path) and network.size >= 224
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and "../shared" not in text


def test_defaults_are_those_of_imagenet(tmp_path):
    (tmp_path / "a.yaml").write_text("MODEL: a.onnx\nPOOLED: pool\nMEAN: [1, 2, 3]\n")
    backbone = read_backbone(tmp_path / "a.yaml")
    assert (backbone.size, backbone.resize, backbone.cut, backbone.bgr) == (224, 256, "centre", False)
    assert backbone.mean == (1.0, 2.0, 3.0) and backbone.scale == pytest.approx(
        (1 / 58.395, 1 / 57.12, 1 / 57.375)
    )


def test_an_efficientnet_expects_the_same_pixels_to_be_extracted_and_to_be_fine_tuned():
    backbone = read_backbone(BACKBONES / "efficientnet_lite2.yaml")
    assert (backbone.mean, backbone.scale) == expected_pixels(backbone.model) == ((127,) * 3, (1 / 128,) * 3)
    assert expected_pixels("resnet18") == expected_pixels("") == (IMAGENET_MEAN, IMAGENET_SCALE)


def test_the_detector_has_the_classes_of_coco():
    detector = read_detector(BACKBONES / "yolox_nano.yaml")
    assert len(set(detector.classes)) == 80 and detector.classes[9] == "traffic light"


MISTAKES = {
    "weights of another network": (
        "MODEL: resnet50\nWEIGHTS: a.safetensors\n",
        "a.yaml: WEIGHTS: expected with an EfficientNet-Lite as MODEL or with KIND: paddle, got 'resnet50'",
    ),
    "no such key": (
        "MODEL: a.onnx\nPOOL: pool\n",
        "a.yaml, line 2: POOL: there is no such key, expected one of MODEL",
    ),
    "a key twice": (
        "MODEL: a\nMODEL: b\n",
        "a.yaml, line 2: MODEL: expected once, got it again after line 1",
    ),
    "a wrong type": ("MODEL: a\nPOOLED: p\nSIZE: big\n", "a.yaml, line 3: SIZE: expected a whole number"),
    "a short list": (
        "MODEL: a\nPOOLED: p\nMEAN: [1, 2]\n",
        "a.yaml, line 3: MEAN: expected a list of 3 numbers",
    ),
    "no choice": ("MODEL: a\nCUT: center\n", "a.yaml, line 2: CUT: expected one of centre, stretch"),
    "no model": ("SIZE: 224\n", "a.yaml: MODEL: expected"),
    "no output": (
        "MODEL: a.onnx\n",
        "a.yaml: POOLED: expected the name of an output here or at GRID, got none",
    ),
    "a crop larger than the picture": (
        "MODEL: a\nPOOLED: p\nRESIZE: 100\n",
        "a.yaml: RESIZE: expected at least SIZE, 224, got 100",
    ),
    "no YAML": ("MODEL: [a\n", "a.yaml, line"),
    "nothing": ("", "a.yaml: expected keys, such as MODEL"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(tmp_path, monkeypatch, name):
    text, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_backbone("a.yaml")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_detector_without_classes_and_a_missing_file_are_one_line(tmp_path):
    (tmp_path / "d.yaml").write_text("MODEL: d.onnx\n")
    with pytest.raises(UserError, match="CLASSES: expected the names of its classes"):
        read_detector(tmp_path / "d.yaml")
    with pytest.raises(UserError, match="none.yaml: cannot be read: No such file"):
        read_detector(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="expected YAML in UTF-8"):
        (tmp_path / "b.yaml").write_bytes(b"MODEL: \xff\n")
        read_detector(tmp_path / "b.yaml")
