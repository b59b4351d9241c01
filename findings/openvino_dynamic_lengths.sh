#!/bin/sh
# OpenVINO 2026.4.1 ignores the lengths of ONNX's GRU and LSTM where the graph has axes of any length, without a word.
#
# Versions: openvino 2026.4.1, onnxruntime 1.23.2, onnx 1.18.0, numpy 1.26.4, Python 3.11, Linux on x86-64; no network
#   but PyPI.
# Guess: `sequence_lens`, the fifth input of ONNX's GRU and LSTM, has the same effect whether the shapes of a graph are
#   numbers or names. Behind the end of a sequence the states are 0, and the final state is that of the last position.
# Behaviour: with numbers OpenVINO agrees with ONNX Runtime to 2e-7. With names for batch and length it computes every
#   sequence to the end of the padding: outputs and final states equal those for full lengths to 2e-7, and differ
#   from ONNX Runtime's by up to 1. A batch without padding is right, so a test with one sentence sees nothing.
# Seen: "GRU forward, named axes: 0.86 from ONNX Runtime, 1.2e-07 from full lengths"; "GRU forward, fixed axes: 1.2e-07
#   from ONNX Runtime, 0.86 from full lengths"; LSTM and both directions alike.
# Exits with 0 while OpenVINO behaves so, with 1 once it does not. Takes half a minute and a download of 100 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet openvino==2026.4.1 onnxruntime==1.23.2 onnx==1.18.0 numpy==1.26.4

cat > lengths.py <<'END'
import sys

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

STEPS, BATCH, WIDTH, STATES = 6, 4, 4, 5
LENGTHS, FULL = np.array([1, 6, 3, 2], np.int32), np.full(BATCH, STEPS, np.int32)


def model(op, direction, axes):
    random, ways = np.random.default_rng(1), 1 + (direction == "bidirectional")
    gates = {"GRU": 3, "LSTM": 4}[op] * STATES
    shapes = {"W": (ways, gates, WIDTH), "R": (ways, gates, STATES), "B": (ways, 2 * gates)}
    weights = [
        numpy_helper.from_array(random.uniform(-1, 1, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(
        op, ["x", "W", "R", "B", "lengths"], ["states", "last"], hidden_size=STATES, direction=direction
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [*axes, WIDTH]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, [axes[1]]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("states", "last")]
    graph = helper.make_graph([node], "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def distance(some, others):
    return max(float(np.abs(one - other).max()) for one, other in zip(some, others))


x = np.random.default_rng(0).standard_normal((STEPS, BATCH, WIDTH)).astype(np.float32)
as_guessed, as_seen = True, True
for op in ("GRU", "LSTM"):
    for direction in ("forward", "bidirectional"):
        for kind, axes in (("named", ("steps", "batch")), ("fixed", (STEPS, BATCH))):
            content = model(op, direction, axes)
            runtime = onnxruntime.InferenceSession(content)
            expected, ignored = (runtime.run(None, {"x": x, "lengths": each}) for each in (LENGTHS, FULL))
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            found = list(compiled({"x": x, "lengths": LENGTHS}).values())
            right, wrong = distance(found, expected), distance(found, ignored)
            print(f"{op} {direction}, {kind} axes: {right:.2g} from ONNX Runtime, {wrong:.2g} from full lengths")
            as_guessed = as_guessed and right < 1e-5
            as_seen = as_seen and (wrong < 1e-5 < right if kind == "named" else right < 1e-5 < wrong)
print(f"openvino {openvino.__version__}, onnxruntime {onnxruntime.__version__}")
sys.exit(0 if as_seen and not as_guessed else 1)
END
if venv/bin/python lengths.py; then
    exit 0
fi
echo "OpenVINO behaves otherwise now"
exit 1
