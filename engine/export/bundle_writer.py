"""Writes the graphs, the vocabulary and the description of a trained model into a folder."""

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import onnx
from yacs.config import CfgNode

from config.families import FAMILIES
from datasets.build.dual import build_features
from datasets.pictures.transforms import Normalization
from datasets.words.vocabulary import Vocabulary
from engine.export.graphs.cnn import embed_pictures, encode_pixels
from engine.export.graphs.dual import encode_features, encode_regions, encode_text
from engine.export.graphs.onnx_graph import OnnxGraph
from engine.export.graphs.pair import score_pairs
from engine.export.precision import write_quantised
from engine.tasks.task import Trained
from models.vsrn import VSRN

PRECISIONS = ("float32", "float16", "int8")
_PACKAGES = ("paddlepaddle", "onnx", "onnxruntime", "numpy")


def write_graphs(cfg: CfgNode, trained: Trained, folder: Path, precision: str) -> tuple[dict, int]:
    """Write the graphs of a model; return the entry `graphs` of the description, and the quantised nodes.

    One graph is in memory at a time.
    """
    graphs, quantised = {}, 0
    for name, build in _builders(cfg, trained).items():
        model = build(OnnxGraph(half=precision == "float16"))
        path = folder / f"{name}.onnx"
        if precision == "int8":
            quantised += write_quantised(model, path)
        else:
            onnx.save(model, path)
        graphs[name] = {
            "file": path.name,
            "inputs": [_value(each) for each in model.graph.input],
            "outputs": [_value(each) for each in model.graph.output],
        }
        del model  # before the next one is built
    return graphs, quantised


def describe(cfg: CfgNode, trained: Trained, precision: str) -> dict:
    """Return what a bundle's description says of the model, without its graphs and its proof."""
    family = FAMILIES[cfg.MODEL.NAME]
    embedding = None
    if family.kind != "cross":
        embedding = {
            "width": _width(cfg, trained),
            "measure": trained.model.measure,
            "abs": bool(family.kind == "dual" and cfg.MODEL.USE_ABS),
        }
    checkpoint = {name: trained.checkpoint[name] for name in ("sha256", "model", "step")}
    return {
        "family": cfg.MODEL.NAME,
        "kind": family.kind,
        "precision": precision,
        "embedding": embedding,
        "text": _text_side(cfg, trained),
        "image": _image_side(cfg),
        "extraction": _extraction(cfg),
        "checkpoint": checkpoint,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def write_words(trained: Trained, folder: Path) -> None:
    """Write the vocabulary, if the model reads text."""
    if trained.words is not None:
        trained.words.save(folder / trained.words.file_name)


def _builders(cfg: CfgNode, trained: Trained) -> dict[str, Callable[[OnnxGraph], onnx.ModelProto]]:
    model, crop = trained.model, cfg.INPUT.CROP_SIZE
    kind = FAMILIES[cfg.MODEL.NAME].kind
    if kind == "cross":
        width = cfg.INPUT.IMG_FEATURE_DIM
        return {"pairs": lambda graph: graph.model(score_pairs(graph, model, width), "score", ["batch"])}
    shape = ["batch", _width(cfg, trained)]
    if kind == "image":
        return {"image": lambda graph: graph.model(embed_pictures(graph, model, crop), "embedding", shape)}

    def image(graph: OnnxGraph) -> onnx.ModelProto:
        encoder = model.image_encoder
        if cfg.MODEL.CNN:
            return graph.model(encode_pixels(graph, encoder, crop), "embedding", shape)
        write = encode_regions if isinstance(model, VSRN) else encode_features
        return graph.model(write(graph, encoder), "embedding", shape)

    def text(graph: OnnxGraph) -> onnx.ModelProto:
        return graph.model(encode_text(graph, model.text_encoder), "embedding", shape)

    return {"image": image, "text": text}


def _width(cfg: CfgNode, trained: Trained) -> int:
    image = FAMILIES[cfg.MODEL.NAME].kind == "image"
    return int(trained.model.embed_dim if image else cfg.MODEL.EMBED_DIM)


def _text_side(cfg: CfgNode, trained: Trained) -> dict | None:
    words = trained.words
    if words is None:
        return None
    is_words = isinstance(words, Vocabulary)
    tokenizer = words.tokenizer if is_words else "wordpiece"
    lower = tokenizer != "whitespace" if is_words else words.lower_case
    return {
        "tokenizer": tokenizer,
        "lower": bool(lower),
        "file": words.file_name,
        "longest": int(cfg.INPUT.MAX_SEQ_LEN),
    }


def _image_side(cfg: CfgNode) -> dict:
    family = FAMILIES[cfg.MODEL.NAME]
    if cfg.MODEL.CNN:
        normalization = Normalization()
        return {
            "reads": "pixels",
            "resize": cfg.INPUT.RESIZE,
            "crop": cfg.INPUT.CROP_SIZE,
            "resample": "bilinear",
            "mean": list(normalization.mean),
            "scale": list(normalization.scale),
            "bgr": normalization.bgr,
        }
    reads = "regions" if family.sees_regions else "features"
    image = {"reads": reads, "width": cfg.INPUT.IMG_FEATURE_DIM}
    if family.kind == "cross":
        image |= {"most": cfg.INPUT.MAX_REGION, "tags": bool(cfg.INPUT.ADD_OD_LABEL)}
    return image


def _extraction(cfg: CfgNode) -> dict | None:
    """Return how the features of the dev split were extracted from pictures, None where it is not known."""
    if FAMILIES[cfg.MODEL.NAME].kind != "dual" or cfg.MODEL.CNN:
        return None
    return build_features(cfg, cfg.DATASET.DEV).extraction


def _value(value: onnx.ValueInfoProto) -> dict:
    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    dtype = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.FLOAT: "float32"}[tensor.elem_type]
    return {"name": value.name, "type": dtype, "shape": shape}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
