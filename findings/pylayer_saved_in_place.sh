#!/bin/sh
# Paddle 3.3.1 notices when a tensor that an operation needs for its gradient is changed in place, but not in a PyLayer.
#
# Versions: paddlepaddle 3.3.1 on the CPU, Python 3.11, Linux; no network but PyPI.
# Guess: what PyLayer.forward keeps with ctx.save_for_backward is guarded like what Paddle's own operations keep: if it is
#   changed in place before the backward pass, that raises. A gradient of another shape than its input is refused.
# Behaviour: for y * y, Paddle raises ("tensor_version:1 != wrapper_version_snapshot:0"). A PyLayer that computes the same
#   gets the changed values from ctx.saved_tensor() without a word: the gradient of x * x at 1 is 22 instead of 2. And
#   whatever shape its backward returns becomes the gradient: five numbers for a tensor of two.
# Seen: "own operation: RuntimeError", "PyLayer: gradient 22, expected 2", "gradient of shape [5] for a tensor of shape [2]".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0

cat > in_place.py <<'END'
import sys

import paddle

paddle.set_device("cpu")


class Square(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensor()
        return 2 * x * gradient


class Wide(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return paddle.ones([5])


def leaf():
    x = paddle.ones([2])
    x.stop_gradient = False
    return x


def gradient_after_change(square):
    """Return the gradient of a square at 1 where its input is 11 by the time of the backward pass."""
    x = leaf()
    y = x * 1
    total = square(y).sum()
    y.add_(paddle.full([2], 10.0))
    total.backward()
    return float(x.grad[0])


try:
    own = gradient_after_change(lambda y: y * y)
except RuntimeError:
    own = "RuntimeError"
print(f"own operation: {own}")
layer = gradient_after_change(Square.apply)
print(f"PyLayer: gradient {layer:g}, expected 2")
x = leaf()
Wide.apply(x).sum().backward()
print(f"gradient of shape {list(x.grad.shape)} for a tensor of shape {list(x.shape)}")
sys.exit(not (own == "RuntimeError" and layer == 22 and list(x.grad.shape) == [5]))
END
if venv/bin/python in_place.py 2>/dev/null; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
