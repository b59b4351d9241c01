"""A small bundle that is written without training: its table and its matrix hold random numbers."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from config.files.bundles import write_description
from datasets.words.vocabulary import Vocabulary

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "dog",
    "cat",
    "car",
    "house",
    "tree",
    "boat",
    "on",
    "under",
    "beside",
    "big",
    "small",
    "old",
    "new",
    "near",
    "far",
    "two",
]
FEATURES, WIDTH = 12, 16

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (30, 60, 220),
    "yellow": (230, 210, 30),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
}


def write_bundle(folder: Path, seed: int = 0, width: int = WIDTH, extraction: dict | None = None) -> Path:
    """Write a bundle of a VSE++ whose vectors have `width` numbers, and return its folder.

    `extraction` is what it tells of how its features are made.

    A sentence's vector is the sum of its words', made as long as 1. The features of a picture that the
    sentence describes (`features_of`) give the same vector.
    """
    folder.mkdir(parents=True)
    vocabulary = Vocabulary.build([" ".join(WORDS)], "simple", 1, "vsepp")
    vocabulary.save(folder / "vocabulary.json")
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((FEATURES, width)).astype(np.float32)
    table = np.zeros((len(vocabulary), width), np.float32)
    for word in WORDS:
        table[vocabulary.encode(word)[1]] = word_features(word) @ matrix
    _write_graph(folder / "text.onnx", "token_ids", ["batch", "length"], table, width)
    _write_graph(folder / "image.onnx", "features", ["batch", FEATURES], matrix, width)
    write_description(
        folder,
        {
            "family": "vsepp",
            "kind": "dual",
            "runtime": "onnx",
            "precision": "float32",
            "embedding": {"width": width, "measure": "cosine", "abs": False},
            "text": {"tokenizer": "simple", "lower": True, "file": "vocabulary.json", "longest": 0},
            "image": {"reads": "features", "width": FEATURES},
            "extraction": extraction,
            "graphs": {"text": {"file": "text.onnx"}, "image": {"file": "image.onnx"}},
        },
    )
    return folder


def write_pixel_bundle(folder: Path, seed: int = 0) -> Path:
    """Write a bundle that reads pictures, and return its folder: a colour's name has its pictures' vector."""
    folder.mkdir(parents=True)
    vocabulary = Vocabulary.build([" ".join(COLOURS)], "simple", 1, "vsepp")
    vocabulary.save(folder / "vocabulary.json")
    matrix = np.random.default_rng(seed).standard_normal((3 * 8 * 8, WIDTH)).astype(np.float32)
    table = np.zeros((len(vocabulary), WIDTH), np.float32)
    for name, colour in COLOURS.items():
        plain = np.broadcast_to(np.float32(colour)[:, None, None] / 127.5 - 1, (3, 8, 8)).reshape(-1)
        vector = plain @ matrix
        table[vocabulary.encode(name)[1]] = vector / np.linalg.norm(vector)
    _write_graph(folder / "text.onnx", "token_ids", ["batch", "length"], table, WIDTH)
    _write_graph(folder / "image.onnx", "pixels", ["batch", 3, 8, 8], matrix, WIDTH)
    image = {"reads": "pixels", "resize": 8, "crop": 8, "bgr": False, "resample": "bilinear"}
    image |= {"mean": [127.5] * 3, "scale": [1 / 127.5] * 3}
    write_description(
        folder,
        {
            "family": "vsepp",
            "kind": "dual",
            "runtime": "onnx",
            "precision": "float32",
            "embedding": {"width": WIDTH, "measure": "cosine", "abs": False},
            "text": {"tokenizer": "simple", "lower": True, "file": "vocabulary.json", "longest": 0},
            "image": image,
            "graphs": {"text": {"file": "text.onnx"}, "image": {"file": "image.onnx"}},
        },
    )
    return folder


def word_features(word: str) -> np.ndarray:
    """Return the features [F] of what a word names."""
    return np.random.default_rng(WORDS.index(word) + 100).standard_normal(FEATURES).astype(np.float32)


def features_of(sentences: list[str]) -> np.ndarray:
    """Return the features [N,F] of pictures that sentences of WORDS describe."""
    return np.stack([sum(map(word_features, sentence.split())) for sentence in sentences])


def sentences_of(count: int) -> list[str]:
    """Return random sentences of four different words."""
    random = np.random.default_rng(5)
    return [" ".join(random.choice(WORDS, 4, replace=False)) for _ in range(count)]


def _write_graph(path: Path, name: str, shape: list, weights: np.ndarray, width: int) -> None:
    """Write a graph that looks rows up and adds them, or multiplies, and then divides by the length."""
    tokens = name == "token_ids"
    kind = TensorProto.INT64 if tokens else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, kind, shape)]
    if tokens:
        inputs.append(helper.make_tensor_value_info("text_len", TensorProto.INT64, ["batch"]))
    first = (
        [
            helper.make_node("Gather", ["weights", name], ["words"]),
            helper.make_node("ReduceSum", ["words", "axes"], ["sum"], keepdims=0),
        ]
        if tokens
        else [helper.make_node("MatMul", [name, "weights"], ["sum"])]
    )
    if name == "pixels":
        first.insert(0, helper.make_node("Flatten", [name], ["flat"]))
        first[1].input[0] = "flat"
    nodes = [
        *first,
        helper.make_node("ReduceL2", ["sum"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Div", ["sum", "length"], ["embedding"]),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])
    weights = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([1]), "axes")]
    graph = helper.make_graph(nodes, "bundle", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
