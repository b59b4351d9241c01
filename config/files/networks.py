"""Read files that say how to feed a finished network: a backbone that extracts features, or a detector."""

import os
from dataclasses import dataclass

import yaml

from config.default import Key
from config.errors import UserError, cut
from config.files.kinds import mistaken_text, refusal
from config.task_files import compose_yaml, plain_value
from config.values import check_value, user_error

_PIXELS = {
    "SIZE": Key(224, "width and height of the network's input, in pixels", minimum=8),
    "BGR": Key(False, "the channels of the input are blue, green, red, and so are MEAN and SCALE"),
    "MEAN": Key(
        [123.675, 116.28, 103.53], "mean that is subtracted from pixels of 0 to 255", element=float, length=3
    ),
    "SCALE": Key(
        [0.0171247538, 0.0175070028, 0.0174291938],
        "factor by which the difference from MEAN is multiplied",
        element=float,
        length=3,
        above=0,
    ),
}
BACKBONE_KEYS: dict[str, Key] = {
    "MODEL": Key("", "file of the network, .onnx, or with KIND: paddle its name, as MODEL.CNN has it"),
    "KIND": Key("onnx", "library that runs the network", choices=("onnx", "paddle")),
    "WEIGHTS": Key(
        "",
        "file of weights, as tools/convert_weights.py writes it, or package:NAME, the weights in an "
        "installed Python package; with KIND: onnx, for an EfficientNet-Lite alone",
    ),
    "INPUT": Key("", "onnx: name of the input, float32 [n,3,SIZE,SIZE]; empty: its only one"),
    "POOLED": Key("", "onnx: name of the output with one vector per image, [n,F] or [n,F,1,1]"),
    "GRID": Key("", "onnx: name of the output with a feature map, [n,F,h,w]"),
    "CUT": Key(
        "centre",
        "centre: resize the short side to RESIZE and crop the centre; stretch: resize the whole "
        "picture to SIZE x SIZE",
        choices=("centre", "stretch"),
    ),
    "RESIZE": Key(256, "centre: length of the short side in pixels before the crop", minimum=8),
    **_PIXELS,
}
DETECTOR_KEYS: dict[str, Key] = {
    "MODEL": Key("", "file of the network, .onnx"),
    "INPUT": Key("", "name of the input, float32 [n,3,SIZE,SIZE]; empty: its only one"),
    "OUTPUT": Key("", "name of the output [n,A,5+K] of YOLOX, before decoding; empty: its only one"),
    "STRIDES": Key([8, 16, 32], "strides of its feature maps in pixels", element=int, minimum=1),
    "PAD": Key(114, "value of the pixels that pad a picture to a square", minimum=0, maximum=255),
    "OVERLAP": Key(
        0.45,
        "overlap (IoU) above which the less certain of two boxes of a class is dropped",
        minimum=0,
        maximum=1,
    ),
    "CLASSES": Key([], "names of the K classes, in the network's order", element=str),
    **_PIXELS,
}


@dataclass(frozen=True)
class Backbone:
    """How to feed a backbone; the fields are the keys of `BACKBONE_KEYS`."""

    path: str
    model: str
    kind: str
    weights: str
    input: str
    pooled: str
    grid: str
    cut: str
    resize: int
    size: int
    bgr: bool
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


@dataclass(frozen=True)
class Detector:
    """How to feed a detector; the fields are the keys of `DETECTOR_KEYS`."""

    path: str
    model: str
    input: str
    output: str
    strides: tuple[int, ...]
    pad: int
    overlap: float
    classes: tuple[str, ...]
    size: int
    bgr: bool
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


def read_backbone(path: str | os.PathLike) -> Backbone:
    """Read the file of a backbone.

    Raises `UserError` that names the line of a wrong key or value.
    """
    values = _read_keys(os.fspath(path), BACKBONE_KEYS)
    backbone = Backbone(os.fspath(path), **values)
    if backbone.cut == "centre" and backbone.resize < backbone.size:
        raise user_error(
            backbone.path, f"RESIZE: expected at least SIZE, {backbone.size}, got {backbone.resize}"
        )
    if backbone.kind == "onnx" and backbone.weights:
        if not backbone.model.startswith("efficientnet_lite"):
            raise user_error(
                backbone.path,
                "WEIGHTS: expected with an EfficientNet-Lite as MODEL or with KIND: paddle, got "
                f"{backbone.model!r}",
            )
    elif backbone.kind == "onnx" and not (backbone.pooled or backbone.grid):
        raise user_error(backbone.path, "POOLED: expected the name of an output here or at GRID, got none")
    return backbone


def read_detector(path: str | os.PathLike) -> Detector:
    """Read the file of a detector.

    Raises `UserError` that names the line of a wrong key or value.
    """
    detector = Detector(os.fspath(path), **_read_keys(os.fspath(path), DETECTOR_KEYS))
    if not detector.classes:
        raise user_error(detector.path, "CLASSES: expected the names of its classes, got none")
    return detector


def _read_keys(path: str, keys: dict[str, Key]) -> dict[str, object]:
    """Return the values of `keys`, from the file or by default, by lower-case name; lists become tuples."""
    values = {name: key.default for name, key in keys.items()}
    text = _read(path)
    if kind := mistaken_text(text.encode()):
        raise user_error(path, kind)
    root = compose_yaml(text, path)
    if not isinstance(root, yaml.MappingNode):
        raise user_error(path, f"expected keys, such as MODEL: {next(iter(keys))}.onnx")
    lines: dict[str, int] = {}
    for name_node, value_node in root.value:
        name, line = str(name_node.value), name_node.start_mark.line + 1
        where = f"{path}, line {line}"
        if name not in keys:
            raise user_error(where, f"{cut(name)}: there is no such key, expected one of {', '.join(keys)}")
        if lines.setdefault(name, line) != line:
            raise user_error(where, f"{name}: expected once, got it again after line {lines[name]}")
        values[name] = check_value(name, keys[name], plain_value(value_node, path), where)
    if not values["MODEL"]:
        raise user_error(path, f"MODEL: expected {keys['MODEL'].meaning}, got nothing")
    return {
        name.lower(): tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        otherwise = "expected YAML in UTF-8: name a file such as those in configs/backbones"
        raise UserError(refusal(path, otherwise)) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}: name a file such as those in configs/backbones"
        ) from error
