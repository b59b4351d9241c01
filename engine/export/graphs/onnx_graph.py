"""Writes ONNX graphs node by node.

The graphs are written from the weights, and not converted from a traced model: a converter drops the lengths
of GRUs, and ends the process for some operations.
"""

from itertools import count

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # the first one with layer normalisation
IR_VERSION = 8
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
_FEWEST_HALVED = 256  # numbers: smaller weights, such as biases, stay in float32


class OnnxGraph:
    """A graph that grows by `add`; values are known by their names.

    With `half`, large weights are stored in float16 and cast to float32, which ONNX Runtime does once, when
    it loads the graph. `inside` is the graph around the body of a loop: the body sees its values.
    """

    def __init__(self, half: bool = False, inside: "OnnxGraph | None" = None) -> None:
        self.half = half
        self._numbers = inside._numbers if inside else count()
        self._nodes: list[onnx.NodeProto] = []
        # Weights go into the final message at once: protobuf copies whatever is added to a message later.
        self._model = onnx.ModelProto(ir_version=IR_VERSION)
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: list[str | int] | None) -> str:
        """Declare an input, whose shape has names for axes of any length; return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output, and return the name of the output."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, outputs: int, *inputs: str, **attributes: object) -> list[str]:
        """Add a node, and return the names of its outputs."""
        names = [self._name(op) for _ in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def constant(self, values: object) -> str:
        """Return integers, or an array of another type, as a value of the graph."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values)))

    def weight(self, array: np.ndarray) -> str:
        """Return a float32 array as a value that is stored once."""
        array, name = np.ascontiguousarray(array, np.float32), self._name("weight")
        halved = self.half and array.size >= _FEWEST_HALVED
        stored = array.astype(np.float16) if halved else array
        self._model.graph.initializer.add(
            name=name,
            dims=array.shape,
            data_type=TensorProto.FLOAT16 if halved else TensorProto.FLOAT,
            raw_data=stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
        return self.add("Cast", name, to=TensorProto.FLOAT) if halved else name

    def scan(
        self,
        body: "OnnxGraph",
        outputs: list[str],
        initial: list[str],
        sequences: list[str],
        stacked: int,
        reverse: bool,
    ) -> list[str]:
        """Run `body` for each step of `sequences` [T,...]; return the final states, then the stacked outputs.

        The body's inputs and outputs are the states, which start as `initial`, then the sequences' steps and
        the `stacked` values to stack.
        """
        graph = helper.make_graph(
            body._nodes,
            "step",
            body._inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        )
        directions = [int(reverse)]
        return self.add_many(
            "Scan",
            len(initial) + stacked,
            *initial,
            *sequences,
            body=graph,
            num_scan_inputs=len(sequences),
            scan_input_directions=directions * len(sequences),
            scan_output_directions=directions * stacked,
        )

    def model(self, output: str, name: str, shape: list[str | int]) -> onnx.ModelProto:
        """Return the finished model, whose one output is called `name`."""
        self._nodes.append(helper.make_node("Identity", [output], [name], name=name))
        graph = self._model.graph
        graph.name = name
        graph.node.extend(self._nodes)
        graph.input.extend(self._inputs)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        return self._model

    def _name(self, what: str) -> str:
        return f"{what.lower()}_{next(self._numbers)}"
