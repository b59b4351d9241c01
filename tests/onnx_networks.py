"""Small networks in ONNX files, whose outputs are known: means of colours, and boxes that never change."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def _save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> Path:
    initializers = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def _value(name: str, shape: list) -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write_means(path: Path, size: int = 8, batch: str | int = "n") -> Path:
    """Write a network of two outputs: `pool`, the mean of each channel, and `grid`, of each quarter."""
    half = size // 2
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pool"]),
        helper.make_node("AveragePool", ["image"], ["grid"], kernel_shape=[half, half], strides=[half, half]),
    ]
    outputs = [_value("pool", [batch, 3, 1, 1]), _value("grid", [batch, 3, 2, 2])]
    return _save(path, nodes, [_value("image", [batch, 3, size, size])], outputs, {})


def write_detector(path: Path, output: np.ndarray, size: int = 32) -> Path:
    """Write a network for one picture whose `output` is always the same [A,5+K]."""
    nodes = [helper.make_node("Identity", ["always"], ["output"])]
    values = output[None].astype(np.float32)
    outputs = [_value("output", list(values.shape))]
    return _save(path, nodes, [_value("images", [1, 3, size, size])], outputs, {"always": values})


def yolox_output(
    boxes: list[tuple[tuple[float, float, float, float], int, float]],
    size: int = 32,
    strides: tuple[int, ...] = (8, 16),
    classes: int = 3,
) -> np.ndarray:
    """Return a YOLOX output [A,5+K] whose first cells hold boxes (x1, y1, x2, y2) of a class with a score."""
    cells = [
        (x, y, stride) for stride in strides for y in range(size // stride) for x in range(size // stride)
    ]
    output = np.zeros((len(cells), 5 + classes), dtype=np.float32)
    output[:, 2:4] = -20  # no extent
    for row, ((left, upper, right, lower), label, score) in enumerate(boxes):
        x, y, stride = cells[row]
        output[row, :2] = (left + right) / 2 / stride - x, (upper + lower) / 2 / stride - y
        output[row, 2:4] = np.log([(right - left) / stride, (lower - upper) / stride])
        output[row, 4] = np.sqrt(score)
        output[row, 5 + label] = np.sqrt(score)
    return output


def backbone_yaml(path: Path, model: Path, **keys: object) -> Path:
    """Write the YAML file of `write_means`: pixels from 0 to 1, stretched to 8 x 8."""
    values = {
        "MODEL": model,
        "INPUT": "image",
        "POOLED": "pool",
        "GRID": "grid",
        "SIZE": 8,
        "CUT": "stretch",
        "MEAN": [0, 0, 0],
        "SCALE": [1 / 255] * 3,
        **keys,
    }
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path


def detector_yaml(path: Path, model: Path, **keys: object) -> Path:
    """Write the YAML file of `write_detector`."""
    values = {"MODEL": model, "SIZE": 32, "STRIDES": [8, 16], "CLASSES": "[dog, traffic light, tree]", **keys}
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path


def write_many_means(path: Path, size: int, width: int) -> Path:
    """Write a network like `write_means` whose outputs are `width` weighted sums of those means."""
    weights = np.random.default_rng(0).standard_normal((width, 3, 1, 1)).astype(np.float32)
    quarter = {"kernel_shape": [size // 2, size // 2], "strides": [size // 2, size // 2]}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Conv", ["means", "weights"], ["pool"]),
        helper.make_node("AveragePool", ["image"], ["quarters"], **quarter),
        helper.make_node("Conv", ["quarters", "weights"], ["grid"]),
    ]
    outputs = [_value("pool", ["n", width, 1, 1]), _value("grid", ["n", width, 2, 2])]
    return _save(path, nodes, [_value("image", ["n", 3, size, size])], outputs, {"weights": weights})


def write_convolutions(path: Path, size: int = 8, batch: str | int = "n", damage: str = "") -> Path:
    """Write a network of convolutions as exporters do, with outputs `pool` [n,6,1,1], `grid` and `classes`.

    `damage` is one of: "late" (a map is read after it was added to another), "twice" (what a ReLU takes is
    read elsewhere, too), "width" (weights of another width), "short" (a weight lacks bytes), "pool" (an
    operator that has no place there), "alias" (a map has two names, of which one is limited).
    """
    random = np.random.default_rng(0)
    weights = {
        name: random.standard_normal(shape).astype(np.float32) / 2
        for name, shape in {
            **{"w0": (4, 3, 3, 3), "b0": (4,), "w1": (4, 1, 3, 3), "w2": (4, 4, 1, 1), "b2": (4,)},
            **{"w3": (6, 5 if damage == "width" else 4, 1, 1), "w4": (2, 6)},
            **{"scale": (4,), "shift": (4,), "mean": (4,)},
        }.items()
    }
    weights |= {"variance": np.full(4, 0.7, np.float32)}
    weights |= {"low": np.array(0, np.float32), "high": np.array(2, np.float32)}
    make = helper.make_node
    nodes = [
        make("Conv", ["image", "w0", "b0"], ["c0"], strides=[2, 2], auto_pad="SAME_UPPER"),
        make("BatchNormalization", ["c0", "scale", "shift", "mean", "variance"], ["n0"], epsilon=1e-3),
        make("Clip", ["n0", "low", "high"], ["a"]),
        make("Conv", ["a", "w1"], ["c1"], group=4, pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["b"]),
        make("Conv", ["b", "w2", "b2"], ["c2"]),
        *(
            [make("Identity", ["c2"], ["alias"]), make("Relu", ["alias"], ["positive"])]
            if damage == "alias"
            else []
        ),
        make("Add", ["c1" if damage == "twice" else "a", "c2"], ["sum" if damage != "alias" else "half"]),
        *([make("Add", ["half", "positive"], ["sum"])] if damage == "alias" else []),
        *([make("MaxPool", ["sum"], ["most"], kernel_shape=[1, 1])] if damage == "pool" else []),
        make("Conv", ["most" if damage == "pool" else "sum", "w3"], ["map"]),
        *(
            [make("Conv", ["a", "w3"], ["again"]), make("Add", ["map", "again"], ["end"])]
            if damage == "late"
            else []
        ),
        make("Identity", ["end" if damage == "late" else "map"], ["grid"]),
        make("GlobalAveragePool", ["grid"], ["pool"]),
        make("Flatten", ["pool"], ["flat"]),
        make("Gemm", ["flat", "w4"], ["classes"], transB=1),
    ]
    side = -(-size // 2)
    outputs = [
        *(_value("pool", [batch, 6, 1, 1]), _value("grid", [batch, 6, side, side])),
        _value("classes", [batch, 2]),
    ]
    _save(path, nodes, [_value("image", [batch, 3, size, size])], outputs, weights)
    if damage == "short":
        model = onnx.load(str(path))
        next(each for each in model.graph.initializer if each.name == "w0").raw_data = b"\0" * 8
        onnx.save(model, str(path))
    return path
