#!/bin/sh
# Paddle 3.3.1 trains an Embedding(sparse=True) to other weights than the same layer without: Adam and Momentum are wrong.
#
# Versions: paddlepaddle 3.3.1 on the CPU, numpy 1.26.4, Python 3.11, Linux; no network but PyPI.
# Guess: sparse=True changes how the gradient is held (the rows of a batch), not what an optimizer makes of it. Adam
#   without lazy_mode and Momentum move all rows as with a dense gradient; at most float32's rounding differs.
# Behaviour: with dense gradients both equal a loop in NumPy to 1e-6. With sparse ones
#   - Adam's first step is 74% as long as it should be, whatever the rows: the powers of beta1 and beta2 that correct the bias
#     are those of the step after. Later steps are too short as well. lazy_mode changes nothing of this.
#   - Momentum gives rows the gradients of other rows, if the ids of a batch are not in ascending order: an error of 1.0 in
#     weights of 1.1 after three steps. In ascending order it is right.
#   SGD is right with both. AdamW, ClipGradByValue and Tensor.norm() raise an OSError about a dimension of -1495112048.
# Seen: "Adam, ids in order: dense 0.0000, sparse 0.0483", "Momentum, ids in order: dense 0.0000, sparse 0.0000",
#   "Momentum, ids as they come: dense 0.0000, sparse 1.0318", "length of Adam's first step: 0.0744 instead of 0.1000".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 numpy==1.26.4 setuptools==65.5.0

cat > sparse.py <<'END'
import sys

import numpy as np
import paddle

paddle.set_device("cpu")
START = np.arange(12).reshape(6, 2) / 10
RATE = 0.1


def trained(kind, sparse, ids, steps):
    """Return the weights after some steps on the sum of squares of the rows `ids`."""
    layer = paddle.nn.Embedding(6, 2, sparse=sparse)
    layer.weight.set_value(START.astype(np.float32))
    optimizer = kind(RATE, parameters=layer.parameters())
    for _ in range(steps):
        (layer(paddle.to_tensor(ids)) ** 2).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return layer.weight.numpy().astype(np.float64)


def adam(ids, steps):
    weights, first, second = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for step in range(1, steps + 1):
        gradient = np.zeros_like(weights)
        np.add.at(gradient, ids, 2 * weights[ids])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights -= RATE * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def momentum(ids, steps):
    weights, speed = START.copy(), np.zeros_like(START)
    for _ in range(steps):
        gradient = np.zeros_like(weights)
        np.add.at(gradient, ids, 2 * weights[ids])
        speed = 0.9 * speed + gradient
        weights -= RATE * speed
    return weights


ORDERED, MIXED = [0, 1, 2, 3, 4, 5], [5, 3, 2, 1, 0, 4]
cases = [
    ("Adam, ids in order", paddle.optimizer.Adam, adam, ORDERED),
    ("Momentum, ids in order", paddle.optimizer.Momentum, momentum, ORDERED),
    ("Momentum, ids as they come", paddle.optimizer.Momentum, momentum, MIXED),
]
found = []
for name, kind, loop, ids in cases:
    dense, sparse = (np.abs(trained(kind, how, ids, 3) - loop(ids, 3)).max() for how in (False, True))
    print(f"{name}: dense {dense:.4f}, sparse {sparse:.4f}")
    found += [dense, sparse]
first = float((START - trained(paddle.optimizer.Adam, True, ORDERED, 1))[5, 1])
print(f"length of Adam's first step: {first:.4f} instead of {RATE:.4f}")
dense, sparse = np.array(found[::2]), np.array(found[1::2])
seen = dense.max() < 1e-4 and sparse[0] > 0.01 and sparse[1] < 1e-4 and sparse[2] > 0.5 and abs(first - 0.0744) < 1e-3
sys.exit(not seen)
END
if venv/bin/python sparse.py; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
