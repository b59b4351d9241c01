#!/bin/sh
# Paddle 3.3.1 takes longer on a CPU for a depthwise convolution than for a dense one of 19 times its products.
#
# Versions: paddlepaddle 3.3.1 on the CPU, Python 3.11, Linux; no network but PyPI.
# Guess: a convolution of each channel by itself (groups = channels), as MobileNet and EfficientNet have it, takes
#   less time than a dense one, since a kernel of 5 x 5 has 25 products for each output where 1 x 1 over 480 channels
#   has 480.
# Behaviour: it takes about three times as long. FLAGS_use_mkldnn and the tracer's lists of oneDNN operations change
#   nothing.
# Seen: "processor seconds: depthwise 0.10, dense 0.03"
# Processor time is compared on one thread, the least of five calls in turns. Exits with 0 while Paddle behaves so, with
# 1 once it does not. Takes 20 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0

cat > measure.py <<'END'
import sys
import time

import numpy as np
import paddle

paddle.set_device("cpu")
paddle.seed(0)
images = paddle.rand([8, 480, 33, 33])
depthwise = paddle.nn.Conv2D(480, 480, 5, padding=2, groups=480, bias_attr=False)
dense = paddle.nn.Conv2D(480, 480, 1, bias_attr=False)


def seconds(work):
    started = time.process_time()
    work(images)
    return time.process_time() - started


with paddle.no_grad():
    seconds(depthwise), seconds(dense)  # warm-up
    turns = [[seconds(depthwise), seconds(dense)] for _ in range(5)]
slow, wide = np.min(turns, axis=0)
print(f"processor seconds: depthwise {slow:.2f}, dense {wide:.2f}")
sys.exit(0 if slow > wide else 1)
END
if OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 venv/bin/python measure.py; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
