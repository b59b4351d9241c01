#!/bin/sh
# ONNX Runtime 1.23.2 computes the nodes of an output that nobody asks for.
#
# Versions: onnxruntime 1.23.2, onnx 1.19.0, NumPy 1.26.4, Python 3.11, Linux on x86-64; no network but PyPI.
# Guess: `run(["pooled"], ...)` computes what `pooled` needs, as the names of wanted outputs suggest; the branch of the
#   graph that leads to another output alone is left out.
# Behaviour: all nodes run at each call, whatever outputs are named. Only a graph that ends at the wanted output saves them.
# Seen: "asked for pooled: Cos, Exp, Sin ran" (Exp and Sin lead to `other` alone)
# The nodes are read from the session's own profile. Exits with 0 while ONNX Runtime behaves so, with 1 once it does not.
# Takes 5 s of processor time and a download of 40 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet onnxruntime==1.23.2 onnx==1.19.0 numpy==1.26.4

cat > run.py <<'END'
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

nodes = [
    helper.make_node("Cos", ["x"], ["pooled"]),
    helper.make_node("Sin", ["x"], ["between"]),
    helper.make_node("Exp", ["between"], ["other"]),
]
sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "pooled", "other")]
model = helper.make_model(
    helper.make_graph(nodes, "two", sides[:1], sides[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
)
options = onnxruntime.SessionOptions()
options.enable_profiling = True
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
(pooled,) = session.run(["pooled"], {"x": np.zeros(8, np.float32)})
assert (pooled == 1).all()
events = json.loads(Path(session.end_profiling()).read_text())
ran = sorted({event["args"]["op_name"] for event in events if event["cat"] == "Node" and "op_name" in event["args"]})
print(f"asked for pooled: {', '.join(ran)} ran")
sys.exit(0 if {"Exp", "Sin"} <= set(ran) else 1)
END
venv/bin/python run.py
