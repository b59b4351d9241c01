"""Graphs in 8-bit integers, by ONNX Runtime's dynamic quantisation."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from config.errors import UserError

_IN_INTEGERS = ("MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DequantizeLinear")


def write_quantised(model: onnx.ModelProto, path: Path) -> int:
    """Write a graph whose weights are 8-bit integers, and return how many nodes compute with these.

    Matrices have a scale for each column. They use 7 of the 8 bits, since processors without VNNI add
    products of 8 bits up in 16 bits, which overflow without a word. Convolutions have unsigned weights, for
    ONNX Runtime has no kernel for signed ones. Raises UserError if nothing was quantised.
    """
    convolutions = any(node.op_type == "Conv" for node in model.graph.node)
    with _quiet():
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            reduce_range=not convolutions,
            weight_type=QuantType.QUInt8 if convolutions else QuantType.QInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
    count = quantised_nodes(onnx.load(path, load_external_data=False).graph)
    if not count:
        raise UserError(f"{path.name}: --precision int8 quantised nothing; use float32 or float16")
    return count


def quantised_nodes(graph: onnx.GraphProto) -> int:
    """Return how many nodes of a graph, those of its loops included, compute with 8-bit weights."""
    count = 0
    for node in graph.node:
        count += node.op_type in _IN_INTEGERS
        count += sum(quantised_nodes(each.g) for each in node.attribute if each.HasField("g"))
    return count


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that the quantiser logs about every graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
