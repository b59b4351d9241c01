"""The graphs of dual encoders: captions, vectors and regions to embeddings."""

import numpy as np
from paddle import nn

from engine.export.graphs.layers import (
    affine,
    array,
    as_float,
    axis_length,
    finished,
    is_real,
    l2norm,
    linear,
    standardised,
)
from engine.export.graphs.onnx_graph import OnnxGraph
from engine.export.graphs.recurrent import Sequences, cells_of, project, run_layer, run_stack
from models.directions import BOX_TERMS, DIRECTIONS, DirectionSummary
from models.encoders import ImageEncoder, RecurrentTextEncoder, WindowTextEncoder
from models.vsrn import GraphBlock, RegionEncoder

_PADDED_MAX = -1e4  # what stands at padding before a maximum, as in models.encoders.max_of


def encode_text(graph: OnnxGraph, encoder: RecurrentTextEncoder | WindowTextEncoder) -> str:
    """Return the embeddings [B,D] of the inputs `token_ids` [B,T] and `text_len` [B]."""
    token_ids = graph.input("token_ids", "int64", ["batch", "length"])
    length = graph.input("text_len", "int64", ["batch"])
    read = _read_windows if isinstance(encoder, WindowTextEncoder) else _read_steps
    return finished(graph, read(graph, encoder, token_ids, length), normalize=True, absolute=encoder.absolute)


def _read_steps(graph: OnnxGraph, encoder: RecurrentTextEncoder, token_ids: str, length: str) -> str:
    """Return the pooled states [B,D] of a recurrent network; a batch's distinct words are projected once."""
    by_step = graph.add("Transpose", token_ids, perm=[1, 0])  # [T,B]
    flat = graph.add("Reshape", by_step, graph.constant([-1]))
    words, _, places, _ = graph.add_many("Unique", 4, flat, sorted=1)
    places = graph.add("Reshape", places, graph.add("Shape", by_step))  # [T,B]
    vectors = graph.add("Gather", graph.weight(array(encoder.embed.weight)), words)
    first = [
        graph.add("Gather", project(graph, vectors, cell), places)
        for cell in cells_of(next(iter(encoder.rnn)))
    ]
    states = run_stack(graph, first, Sequences.of(graph, by_step, length), encoder.rnn)
    if encoder.pooling == "last":
        return _mean_of_ways(graph, [final for final, _ in states])
    every = _mean_of_ways(graph, [stacked for _, stacked in states])
    return _pool(graph, graph.add("Transpose", every, perm=[1, 0, 2]), length, encoder.pooling)


def _read_windows(graph: OnnxGraph, encoder: WindowTextEncoder, token_ids: str, length: str) -> str:
    """Return the map [B,D] of the mean over windows of words."""
    words = graph.add("Gather", graph.weight(array(encoder.embed.weight)), token_ids)  # [B,T,E]
    real = graph.add("Unsqueeze", is_real(graph, words, 1, length), graph.constant([2]))
    words = graph.add("Mul", words, as_float(graph, real))
    reach = encoder.window // 2
    padded = graph.add("Pad", words, graph.constant([0, reach, 0, 0, reach, 0]))
    count = axis_length(graph, words, 1)
    shifted = [
        _columns(graph, padded, graph.constant([place]), graph.add("Add", count, graph.constant([place])), 1)
        for place in range(encoder.window)
    ]
    hidden = linear(graph, graph.add("Concat", *shifted, axis=2), encoder.windows)  # [B,T,D]
    return linear(graph, _pool(graph, graph.add("Relu", hidden), length, "mean"), encoder.out)


def map_features(graph: OnnxGraph, features: str, encoder: ImageEncoder) -> str:
    """Return the embeddings [B,D] of `features` [B,F]."""
    embedding = linear(graph, standardised(graph, features, encoder.feature_norm), encoder.fc)
    return finished(graph, embedding, encoder.normalize, encoder.absolute)


def encode_features(graph: OnnxGraph, encoder: ImageEncoder) -> str:
    """Return the embeddings [B,D] of the input `features` [B,F]."""
    width = encoder.fc.weight.shape[0]
    return map_features(graph, graph.input("features", "float32", ["batch", width]), encoder)


def encode_regions(graph: OnnxGraph, encoder: RegionEncoder) -> str:
    """Return the embeddings [B,D] of the inputs `regions` [B,R,F] and `num_regions` [B]."""
    width = encoder.fc.weight.shape[0]
    regions = graph.input("regions", "float32", ["batch", "count", width])
    count = graph.input("num_regions", "int64", ["batch"])
    real = as_float(graph, is_real(graph, regions, 1, count))  # [B,R]
    column = graph.add("Unsqueeze", real, graph.constant([2]))  # [B,R,1]
    # Where and not Mul: what stands at padding may be NaN.
    is_column = graph.add("Greater", column, graph.constant(np.float32(0)))
    regions = graph.add("Where", is_column, regions, graph.constant(np.float32(0)))
    features = standardised(graph, regions, encoder.feature_norm)
    rows = graph.add("Mul", linear(graph, features, encoder.fc), column)
    if encoder.norm_regions:
        rows = l2norm(graph, rows, axis=1)
    share = graph.add("Div", real, as_float(graph, graph.add("Unsqueeze", count, graph.constant([1]))))
    share = graph.add("Unsqueeze", share, graph.constant([1]))  # [B,1,R]
    for block in encoder.blocks:
        rows = _graph_block(graph, rows, column, share, block)
    rows = l2norm(graph, rows, axis=1)
    by_step = graph.add("Transpose", rows, perm=[1, 0, 2])  # [R,B,D]
    (cell,) = cells_of(next(iter(encoder.rnn)))
    sequences = Sequences.of(graph, by_step, count)
    embedding, _ = run_layer(graph, project(graph, by_step, cell), sequences, cell, reverse=False)
    if encoder.directions is not None:
        summary = _summarise(graph, regions, features, column, count, encoder.directions)
        embedding = graph.add("Add", embedding, summary)
    if encoder.norm is not None:
        scale, shift = norm_as_affine(encoder.norm)
        embedding = graph.add("Mul", embedding, graph.weight(scale))
        embedding = graph.add("Add", embedding, graph.weight(shift))
    return finished(graph, embedding, encoder.normalize, encoder.absolute)


def norm_as_affine(norm: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift, float64 [D], of a batch norm in evaluation."""
    weight, bias, mean, variance = (
        tensor.numpy().astype(np.float64) for tensor in (norm.weight, norm.bias, norm._mean, norm._variance)
    )
    scale = weight / np.sqrt(variance + norm._epsilon)
    return scale, bias - mean * scale


def _graph_block(graph: OnnxGraph, rows: str, column: str, share: str, block: GraphBlock) -> str:
    """Return the rows [B,R,D] after a block; padding stays 0.

    As in `GraphBlock`, weights between which nothing stands are multiplied first, and the batch norm is put
    into the last of them: two products in place of four, and half of the file.
    """
    theta, phi, g, out = (
        (layer.weight.numpy().astype(np.float64), layer.bias.numpy().astype(np.float64))
        for layer in (block.theta, block.phi, block.g, block.out)
    )
    scale, shift = norm_as_affine(block.norm)
    query = affine(graph, rows, theta[0] @ phi[0].T, phi[0] @ theta[1])
    affinity = graph.add("MatMul", query, graph.add("Transpose", rows, perm=[0, 2, 1]))  # [B,R,R]
    own = affine(graph, rows, (theta[0] @ phi[1])[:, None], (theta[1] @ phi[1])[None])  # [B,R,1]
    affinity = graph.add("Mul", graph.add("Add", affinity, own), share)
    total = graph.add("ReduceSum", affinity, graph.constant([2]), keepdims=1)  # [B,R,1]
    heard = graph.add("MatMul", affinity, rows)
    message = affine(graph, heard, g[0] @ out[0] * scale, out[1] * scale + shift)
    constant = graph.add("Mul", total, graph.weight(g[1] @ out[0] * scale))
    message = graph.add("Mul", graph.add("Add", message, constant), column)
    return graph.add("Add", rows, message)


def _summarise(
    graph: OnnxGraph, regions: str, features: str, column: str, count: str, layer: DirectionSummary
) -> str:
    """Return the summaries [B,D] of `regions` [B,R,F]; `features` are the same, standardised."""
    hidden = graph.add("Mul", graph.add("Relu", linear(graph, features, layer.hidden)), column)  # [B,R,H]
    others = graph.add("MatMul", hidden, graph.weight(array(layer.others.weight)))
    others = graph.add("Reshape", others, graph.constant([0, 0, DIRECTIONS, layer.own.weight.shape[0]]))
    others = graph.add("Transpose", others, perm=[0, 2, 1, 3])  # [B,4,R,H]
    heard = graph.add("MatMul", _direction_weights(graph, regions), others)
    heard = graph.add("ReduceSum", heard, graph.constant([1]), keepdims=0)  # [B,R,H]
    bound = graph.add("Relu", graph.add("Add", linear(graph, hidden, layer.own), heard))
    return linear(graph, _pool(graph, bound, count, "mean"), layer.out)


def _direction_weights(graph: OnnxGraph, regions: str) -> str:
    """Return the weights [B,4,R,R] of `models.directions.direction_weights`, from the boxes in `regions`."""
    corners = [
        _columns(graph, regions, graph.constant([start]), graph.constant([start + 2]), 2)
        for start in (-BOX_TERMS, 2 - BOX_TERMS)
    ]
    centres = graph.add("Mul", graph.add("Add", *corners), graph.constant(np.float32(0.5)))  # [B,R,2]
    others, own = (graph.add("Unsqueeze", centres, graph.constant([axis])) for axis in (1, 2))
    towards = l2norm(graph, graph.add("Sub", others, own))  # [B,R,R,2]
    cosines = graph.add("Concat", towards, graph.add("Neg", towards), axis=3)
    cosines = graph.add("Relu", graph.add("Transpose", cosines, perm=[0, 3, 1, 2]))
    return graph.add("Mul", cosines, cosines)


def _columns(graph: OnnxGraph, x: str, start: str, stop: str, axis: int) -> str:
    """Return x[..., start:stop, ...] along an axis."""
    return graph.add("Slice", x, start, stop, graph.constant([axis]))


def _mean_of_ways(graph: OnnxGraph, ways: list[str]) -> str:
    if len(ways) == 1:
        return ways[0]
    return graph.add("Mul", graph.add("Add", *ways), graph.constant(np.float32(0.5)))


def _pool(graph: OnnxGraph, states: str, length: str, pooling: str) -> str:
    """Return the mean or the maximum [B,D] of the first `length[b]` of the `states` [B,T,D]."""
    real = graph.add("Unsqueeze", is_real(graph, states, 1, length), graph.constant([2]))  # [B,T,1]
    if pooling == "max":
        kept = graph.add("Where", real, states, graph.constant(np.float32(_PADDED_MAX)))
        return graph.add("ReduceMax", kept, axes=[1], keepdims=0)
    kept = graph.add("Mul", states, as_float(graph, real))
    total = graph.add("ReduceSum", kept, graph.constant([1]), keepdims=0)
    return graph.add("Div", total, as_float(graph, graph.add("Unsqueeze", length, graph.constant([1]))))
