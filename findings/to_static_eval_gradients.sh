#!/bin/sh
# paddle.jit.to_static(full_graph=True) drops all gradients of a layer in evaluation mode, without a word (paddlepaddle 3.3.1).
#
# Versions: paddlepaddle 3.3.1, numpy 1.26.4, Python 3.10 to 3.12, Linux, CPU; no network but PyPI.
# Guess: eval() changes dropout and batch normalisation alone, as it does in dynamic mode; gradients flow all the same.
#   That matters for whoever fine-tunes with frozen statistics, or takes gradients with respect to a trained network.
# Behaviour: with full_graph=True a layer in eval() runs a program without a backward pass. backward() raises nothing, the
#   output says stop_gradient=False, gradients stay None, and an optimizer's steps leave the weights as they are. In
#   train(), and with full_graph=False (the default), gradients are those of dynamic mode. Setting eval() on the batch
#   normalisation alone, not on the whole network, is a way out.
# Seen: "dynamic, eval: gradient 12.0, weights move", "full_graph=False, eval: gradient 12.0, weights move",
#   "full_graph=True, train: gradient 12.0, weights move", "full_graph=True, eval: gradient None, weights stay".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 numpy==1.26.4

cat > gradients.py <<'END'
import sys

import numpy as np
import paddle

inputs = paddle.ones([2, 3])


def trained(wrap, mode):
    paddle.seed(1)
    layer = paddle.nn.Linear(3, 2)
    getattr(layer, mode)()
    before = layer.weight.numpy().copy()
    optimizer = paddle.optimizer.SGD(0.1, parameters=layer.parameters())
    output = wrap(layer)(inputs)
    assert not output.stop_gradient
    output.sum().backward()
    gradient = layer.weight.grad
    total = None if gradient is None else float(np.abs(gradient.numpy()).sum())
    optimizer.step()
    return total, bool((layer.weight.numpy() != before).any())


def static(full_graph):
    return lambda layer: paddle.jit.to_static(layer, full_graph=full_graph)


ways = {
    "dynamic, eval": (lambda layer: layer, "eval"),
    "full_graph=False, eval": (static(False), "eval"),
    "full_graph=True, train": (static(True), "train"),
    "full_graph=True, eval": (static(True), "eval"),
}
found = {name: trained(*way) for name, way in ways.items()}
for name, (total, moves) in found.items():
    print(f"{name}: gradient {total}, weights {'move' if moves else 'stay'}")
whole = (12.0, True)
sys.exit(list(found.values()) != [whole, whole, whole, (None, False)])
END
venv/bin/python gradients.py 2> errors || { code=$?; cat errors; exit $code; }
