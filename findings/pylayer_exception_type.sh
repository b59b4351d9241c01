#!/bin/sh
# Paddle 3.3.1 turns every exception of a PyLayer's backward pass into OSError, KeyboardInterrupt as well.
#
# Versions: paddlepaddle 3.3.1 on the CPU, Python 3.11, Linux; no network but PyPI.
# Guess: what `backward` of a paddle.autograd.PyLayer raises comes out of `loss.backward()` with its type, as what
#   `forward` raises does; a Ctrl-C that strikes there ends the program as a KeyboardInterrupt.
# Behaviour: from `forward` the type comes out. From `backward` comes an OSError, without a cause, that has type and
#   text of the exception in its message alone. So `except ValueError` or `except KeyboardInterrupt` does not see it,
#   `except OSError` for files does, and a Ctrl-C that strikes there is no KeyboardInterrupt any more.
# Seen: "forward, ValueError: ValueError", "backward, ValueError: OSError, cause None", and the same for the
#   other exceptions.
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0

cat > raising.py <<'END'
import sys

import paddle

paddle.set_device("cpu")


class Raising(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x, where, error):
        ctx.where, ctx.error = where, error
        if where == "forward":
            raise error("on purpose")
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        raise ctx.error("on purpose")


def caught(where, error):
    x = paddle.ones([1])
    x.stop_gradient = False
    try:
        Raising.apply(x, where, error).sum().backward()
    except BaseException as raised:
        print(f"{where}, {error.__name__}: {type(raised).__name__}, cause {raised.__cause__}")
        return type(raised)


errors = [ValueError, KeyError, KeyboardInterrupt]
forward = [caught("forward", error) for error in errors]
backward = [caught("backward", error) for error in errors]
sys.exit(0 if forward == errors and backward == [OSError] * 3 else 1)
END
if venv/bin/python raising.py; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
