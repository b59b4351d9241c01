#!/bin/sh
# Paddle 3.3.1: layer.bfloat16() leaves float32 on a CPU, layer.to(dtype="bfloat16") does not, and neither's state loads into the other.
#
# Versions: paddlepaddle 3.3.1 on the CPU, numpy 1.26.4, Python 3.11, Linux; no network but PyPI.
# Guess: bfloat16() and to(dtype="bfloat16") do the same; a state of another type is converted when it is loaded, as in PyTorch, or is
#   refused before anything has changed; a layer of bfloat16 is slow on a CPU, but runs.
# Behaviour: bfloat16() changes nothing and warns that "Paddle compiled by the user does not support bfloat16", with PyPI's wheel, too.
#   to(dtype="bfloat16") converts, and saved files keep the type; but neither Linear nor LayerNorm has a kernel for it. set_state_dict()
#   of a state with one tensor of another type is an AssertionError after the tensors around it have been loaded: the layer is neither
#   what it was nor what was saved. A tensor of another shape is no error at all: its name is returned as missing and as unexpected, both.
# Seen: "bfloat16(): float32", "to(dtype='bfloat16'): bfloat16", "a layer of bfloat16: RuntimeError", "another type: AssertionError,
#   loaded: True True False True", "another shape: missing ['1.weight', '1.bias'], unexpected ['1.weight', '1.bias']".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 10 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 numpy==1.26.4 setuptools==65.5.0

cat > state.py <<'END'
import sys
import warnings

import numpy as np
import paddle

paddle.set_device("cpu")
warnings.simplefilter("ignore")


def layers(width=2):
    return paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.Linear(2, width))


def name_of(tensor):
    return str(tensor.dtype).rpartition(".")[2]


short, long = layers(), layers()
short.bfloat16()
long.to(dtype="bfloat16")
types = name_of(short[0].weight), name_of(long[0].weight)
print(f"bfloat16(): {types[0]}\nto(dtype='bfloat16'): {types[1]}")

paddle.save(long.state_dict(), "long.pdparams")
kept = name_of(paddle.load("long.pdparams")["0.weight"])
print(f"saved and loaded: {kept}")

runs = "no error"
try:
    long(paddle.ones([1, 3], "bfloat16"))
except RuntimeError as error:
    runs = type(error).__name__
print(f"a layer of bfloat16: {runs}")

source, target = layers(), layers()
state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
state["1.weight"] = state["1.weight"].astype("bfloat16")
raised = "no error"
try:
    target.set_state_dict(state)
except AssertionError as error:
    raised = type(error).__name__
loaded = [bool(np.array_equal(target.state_dict()[name], source.state_dict()[name])) for name in state]
print(f"another type: {raised}, loaded: {' '.join(map(str, loaded))}")

missing, unexpected = layers(5).set_state_dict(source.state_dict())
print(f"another shape: missing {missing}, unexpected {unexpected}")

other = ["1.weight", "1.bias"]
seen = (types == ("float32", "bfloat16"), kept == "bfloat16", runs == "RuntimeError")
seen += (raised == "AssertionError", loaded == [True, True, False, True], missing == other, unexpected == other)
sys.exit(not all(seen))
END
if venv/bin/python state.py; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
