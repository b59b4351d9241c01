#!/bin/sh
# safetensors 0.8.0 writes an empty Paddle tensor that it cannot read again with Paddle, and the whole file with it.
#
# Versions: safetensors 0.8.0, paddlepaddle 3.3.1 on the CPU, numpy 1.26.4, Python 3.11, Linux; no network but PyPI.
# Guess: a tensor with an axis of length 0 (no negatives yet, a queue that is empty) survives save_file and load_file, as with
#   NumPy and torch.
# Behaviour: safetensors.paddle.save_file writes a correct file, which NumPy reads. safetensors.paddle.load_file raises
#   a ValueError about strides, and gives none of the other tensors. paddle.save and paddle.load keep such a tensor.
# Seen: "NumPy: [0, 4]", "Paddle, a file with it: ValueError input.strides[0] must be 1 to view uint8 as float32",
#   "paddle.load: [0, 4]".
# Exits with 0 while safetensors behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 safetensors==0.8.0 numpy==1.26.4 setuptools==65.5.0

cat > empty.py <<'END'
import re
import sys

import paddle
import safetensors.numpy
import safetensors.paddle

paddle.set_device("cpu")
tensors = {"full": paddle.ones([2]), "empty": paddle.zeros([0, 4])}
safetensors.paddle.save_file(tensors, "both.safetensors")
paddle.save(tensors, "both.pdparams")
of_numpy = list(safetensors.numpy.load_file("both.safetensors")["empty"].shape)
print(f"NumPy: {of_numpy}")
try:
    found = f"read {list(safetensors.paddle.load_file('both.safetensors'))}"
except ValueError as error:
    reason = re.search(r"input\.strides\[0\] must be 1 to view uint8 as float32", str(error))
    found = f"ValueError {reason[0] if reason else error}"
print(f"Paddle, a file with it: {found}")
of_paddle = list(paddle.load("both.pdparams")["empty"].shape)
print(f"paddle.load: {of_paddle}")
sys.exit(not (of_numpy == of_paddle == [0, 4] and found.startswith("ValueError input.strides")))
END
if venv/bin/python empty.py 2>/dev/null; then
    exit 0
fi
echo "safetensors behaves otherwise now"
exit 1
