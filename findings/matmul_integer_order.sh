#!/bin/sh
# ONNX Runtime 1.23.2 takes several times as long for many rows of bytes times one column as for one row times them.
#
# Versions: onnxruntime 1.23.2, onnx 1.19.0, NumPy 1.26.4, Python 3.11, Linux on x86-64; no network but PyPI.
# Guess: `MatMulInteger` of uint8 [N,D] and int8 [D,1] takes as long as that of uint8 [1,D] and int8 [D,N]: both read the
#   same N x D bytes once and make the same N sums.
# Behaviour: the first takes a multiple of the second, since it copies its many rows into another order first. One row
#   times a matrix is multiplied where the matrix lies.
# Seen: "processor ms: rows 26.1, columns 6.8" for N = 100,000 and D = 1,024
# Processor time is compared on one thread, the least of seven calls in turns. Exits with 0 while ONNX Runtime behaves so,
# with 1 once it does not. Takes 10 s of processor time and a download of 40 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet onnxruntime==1.23.2 onnx==1.19.0 numpy==1.26.4

cat > measure.py <<'END'
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

a = helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", "d"])
b = helper.make_tensor_value_info("b", TensorProto.INT8, ["d", "m"])
out = helper.make_tensor_value_info("out", TensorProto.INT32, ["n", "m"])
graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["out"])], "product", [a, b], [out])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
many, one = (random.integers(0, 64, shape).astype(np.uint8) for shape in ((100_000, 1024), (1, 1024)))
feeds = [{"a": many, "b": one.T.astype(np.int8)}, {"a": one, "b": np.ascontiguousarray(many.T).astype(np.int8)}]


def milliseconds(feed):
    started = time.process_time()
    session.run(None, feed)
    return (time.process_time() - started) * 1000


assert np.array_equal(session.run(None, feeds[0])[0].ravel(), session.run(None, feeds[1])[0].ravel())
turns = [[milliseconds(feed) for feed in feeds] for _ in range(7)]
rows, columns = np.min(turns, axis=0)
print(f"processor ms: rows {rows:.1f}, columns {columns:.1f}")
sys.exit(0 if rows > 1.5 * columns else 1)
END
venv/bin/python measure.py
