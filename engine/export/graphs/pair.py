"""The graph of a cross encoder: pairs of a text and an image's regions to scores."""

import math

import numpy as np
from paddle import nn

from engine.export.graphs.layers import affine, array, is_real, linear, positions, standardised
from engine.export.graphs.onnx_graph import OnnxGraph
from models.bert import Bert, BertLayer
from models.layers.bert.pair_rows import REGION
from models.oscar import Oscar

_MASKED = -1e30  # added to the scores of what is not attended to; its exponential is 0


def score_pairs(graph: OnnxGraph, model: Oscar, region_dim: int) -> str:
    """Return the scores [P] of pairs.

    The inputs are `token_ids` and `segment_ids` [P,T] with `text_len` [P], and `regions` [P,R,F] with
    `num_regions` [P].
    """
    ids, segments = (graph.input(name, "int64", ["batch", "length"]) for name in ("token_ids", "segment_ids"))
    text_len = graph.input("text_len", "int64", ["batch"])
    regions = graph.input("regions", "float32", ["batch", "count", region_dim])
    count = graph.input("num_regions", "int64", ["batch"])
    in_text, in_image = is_real(graph, ids, 1, text_len), is_real(graph, regions, 1, count)
    there = graph.add("Unsqueeze", in_image, graph.constant([2]))
    regions = graph.add("Where", there, regions, graph.constant(np.float32(0)))
    bert = model.bert
    rows = graph.add(
        "Concat",
        _embed_text(graph, bert, ids, segments),
        _embed_regions(graph, bert, standardised(graph, regions, model.feature_norm)),
        axis=1,
    )  # [P,T+R,D]
    real = graph.add("Concat", in_text, in_image, axis=1)  # [P,S]
    mask = _mask(graph, real, segments, in_image, model.attends)
    for layer in bert.layers[:-1]:
        rows = _layer(graph, layer, rows, rows, mask)
    first = graph.add("Slice", rows, graph.constant([0]), graph.constant([1]), graph.constant([1]))
    if model.attends is not None:
        mask = graph.add("Slice", mask, graph.constant([0]), graph.constant([1]), graph.constant([2]))
    first = graph.add("Squeeze", _layer(graph, bert.layers[-1], first, rows, mask), graph.constant([1]))
    pooled = graph.add("Tanh", linear(graph, first, bert.pooler))
    logits = _classify(graph, pooled, model.classifier)  # [P,labels]
    columns = graph.add_many("Split", 2, logits, axis=1) if _labels(model.classifier) == 2 else [logits]
    value = graph.add("Sub", columns[1], columns[0]) if len(columns) == 2 else columns[0]
    return graph.add("Squeeze", value, graph.constant([1]))


def _labels(classifier: nn.Layer) -> int:
    last = list(classifier.children())[-1] if isinstance(classifier, nn.Sequential) else classifier
    return last.weight.shape[1]


def _classify(graph: OnnxGraph, pooled: str, classifier: nn.Layer) -> str:
    if not isinstance(classifier, nn.Sequential):
        return linear(graph, pooled, classifier)
    first, _, second = classifier.children()
    return linear(graph, graph.add("Relu", linear(graph, pooled, first)), second)


def _embed_text(graph: OnnxGraph, bert: Bert, ids: str, segments: str) -> str:
    embeddings = bert.embeddings
    words, places, kinds = (
        graph.add("Gather", graph.weight(array(table.weight)), index)
        for table, index in (
            (embeddings.words, ids),
            (embeddings.positions, positions(graph, ids, 1)),
            (embeddings.segments, segments),
        )
    )
    return _layer_norm(graph, graph.add("Add", graph.add("Add", words, kinds), places), embeddings.norm)


def _embed_regions(graph: OnnxGraph, bert: Bert, regions: str) -> str:
    mapped = linear(graph, regions, bert.regions.fc)
    norm = bert.regions.norm
    return _layer_norm(graph, mapped, norm) if isinstance(norm, nn.LayerNorm) else mapped


def _layer_norm(graph: OnnxGraph, rows: str, norm: nn.LayerNorm) -> str:
    weight, bias = (graph.weight(array(tensor)) for tensor in (norm.weight, norm.bias))
    return graph.add("LayerNormalization", rows, weight, bias, axis=-1, epsilon=float(norm._epsilon))


def _mask(graph: OnnxGraph, real: str, segments: str, in_image: str, attends: np.ndarray | None) -> str:
    """Return what is added to attention scores: [P,1,1,S], or [P,1,S,S] where not all attend to all."""
    seen = graph.add("Unsqueeze", real, graph.constant([1, 2]))  # [P,1,1,S]
    if attends is not None:
        regions = graph.add("Where", in_image, graph.constant(REGION), graph.constant(REGION))
        kinds = graph.add("Concat", segments, regions, axis=1)  # [P,S]
        is_kind = graph.add("OneHot", kinds, graph.constant([3]), graph.constant(np.float32([0, 1])))
        sees = graph.add("Gather", graph.weight(attends.astype(np.float32)), kinds)  # [P,S,3]
        pairs = graph.add("MatMul", sees, graph.add("Transpose", is_kind, perm=[0, 2, 1]))  # [P,S,S]
        pairs = graph.add("Greater", pairs, graph.constant(np.float32(0.5)))
        seen = graph.add("And", seen, graph.add("Unsqueeze", pairs, graph.constant([1])))
    return graph.add("Where", seen, *(graph.constant(np.float32(value)) for value in (0, _MASKED)))


def _layer(graph: OnnxGraph, layer: BertLayer, rows: str, all_rows: str, mask: str) -> str:
    """Return the layer's output [P,N,D] for the `rows` [P,N,D] among `all_rows` [P,S,D]."""
    dim, heads = layer.query.weight.shape[0], layer.num_heads
    key_value, bias = array(layer.key_value.weight), array(layer.key_value.bias)
    scale = 1 / math.sqrt(dim // heads)  # put into the weights of the queries
    query = affine(graph, rows, array(layer.query.weight) * scale, array(layer.query.bias) * scale)
    key, value = (
        affine(graph, all_rows, key_value[:, part], bias[part]) for part in (slice(dim), slice(dim, None))
    )
    query, key, value = (
        graph.add(
            "Transpose",
            graph.add("Reshape", each, graph.constant([0, -1, heads, dim // heads])),
            perm=perm,
        )
        for each, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
    )
    scores = graph.add("Add", graph.add("MatMul", query, key), mask)  # [P,heads,N,S]
    context = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    context = graph.add("Transpose", context, perm=[0, 2, 1, 3])
    context = graph.add("Reshape", context, graph.constant([0, -1, dim]))
    attended = graph.add("Add", linear(graph, context, layer.attended), rows)
    attended = _layer_norm(graph, attended, layer.attended_norm)
    inner = linear(graph, _gelu(graph, linear(graph, attended, layer.widen)), layer.narrow)
    return _layer_norm(graph, graph.add("Add", inner, attended), layer.norm)


def _gelu(graph: OnnxGraph, x: str) -> str:
    """Return x (1 + erf(x / sqrt 2)) / 2, in the form that ONNX Runtime computes in one pass."""
    scaled = graph.add("Div", x, graph.constant(np.float32(math.sqrt(2))))
    shifted = graph.add("Add", graph.add("Erf", scaled), graph.constant(np.float32(1)))
    return graph.add("Mul", graph.add("Mul", x, shifted), graph.constant(np.float32(0.5)))
