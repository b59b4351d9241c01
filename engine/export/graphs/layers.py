"""Layers that several encoders share, as nodes of an ONNX graph."""

import numpy as np
from onnx import TensorProto
from paddle import nn

from engine.export.graphs.onnx_graph import OnnxGraph
from models.encoders import SMALLEST_NORM, FeatureNorm


def array(tensor: object) -> np.ndarray:
    """Return a tensor's values as float32."""
    return tensor.numpy().astype(np.float32)


def linear(graph: OnnxGraph, rows: str, layer: nn.Linear) -> str:
    """Return the linear map of `rows` [...,F]."""
    return affine(graph, rows, array(layer.weight), array(layer.bias))


def affine(graph: OnnxGraph, rows: str, weight: np.ndarray, bias: np.ndarray) -> str:
    """Return `rows` [...,F] times `weight` [F,D], plus `bias` [D]."""
    product = graph.add("MatMul", rows, graph.weight(weight))
    return graph.add("Add", product, graph.weight(bias))


def l2norm(graph: OnnxGraph, x: str, axis: int = -1) -> str:
    """Return `x` divided by its l2 norm along `axis`, as `models.encoders.l2norm` does."""
    squares = graph.add("ReduceSum", graph.add("Mul", x, x), graph.constant([axis]), keepdims=1)
    floor = graph.constant(np.float32(SMALLEST_NORM**2))
    return graph.add("Div", x, graph.add("Sqrt", graph.add("Max", squares, floor)))


def standardised(graph: OnnxGraph, features: str, norm: FeatureNorm | None) -> str:
    """Return `features` [...,F] standardised by `norm`, or as they are without it."""
    if norm is None:
        return features
    centred = graph.add("Sub", features, graph.weight(array(norm.mean)))
    return graph.add("Div", centred, graph.weight(array(norm.deviation)))


def finished(graph: OnnxGraph, embedding: str, normalize: bool, absolute: bool) -> str:
    """Return the `embedding` [B,D], l2-normalised and made absolute as the encoder says."""
    if normalize:
        embedding = l2norm(graph, embedding)
    return graph.add("Abs", embedding) if absolute else embedding


def axis_length(graph: OnnxGraph, x: str, axis: int) -> str:
    """Return the length of an axis of `x`, as int64 [1]."""
    return graph.add("Shape", x, start=axis, end=axis + 1)


def positions(graph: OnnxGraph, x: str, axis: int) -> str:
    """Return 0, 1, ... along an axis of `x`: int64 [n]."""
    length = graph.add("Squeeze", axis_length(graph, x, axis), graph.constant([0]))
    return graph.add("Range", graph.constant(0), length, graph.constant(1))


def is_real(graph: OnnxGraph, x: str, axis: int, length: str) -> str:
    """Return bool [B,n]: which positions along an axis of `x` are before `length` [B]."""
    column = graph.add("Unsqueeze", length, graph.constant([1]))
    return graph.add("Less", positions(graph, x, axis), column)


def as_float(graph: OnnxGraph, x: str) -> str:
    """Return `x` in float32."""
    return graph.add("Cast", x, to=TensorProto.FLOAT)
