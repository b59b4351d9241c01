#!/bin/sh
# Paddle 3.3.1 takes every uint16 array for bfloat16: token ids, depth and 16-bit pictures become numbers near zero.
#
# Versions: paddlepaddle 3.3.1 on the CPU, safetensors 0.8.0, numpy 1.26.4, Python 3.11, Linux; no network but PyPI.
# Guess: an unsigned type that Paddle lacks is refused, as uint32 is (ValueError), or widened. Files of token ids of up
#   to 65,535 words are uint16, and so are 16-bit pictures and depth maps.
# Behaviour: the bits are reinterpreted, without a word, by paddle.to_tensor, by DataLoader's batches, by
#   paddle.vision.transforms.ToTensor, and by safetensors.paddle.load_file of a file of NumPy with the tag U16. 1, 2 and 300
#   become about 9e-41, 2e-40 and 3e-38, and 0 as int64. With dtype="int64" to_tensor is right.
# Seen: "to_tensor: bfloat16 [0, 0, 0]", "DataLoader: bfloat16 [0, 0, 0]", "ToTensor: bfloat16 [0, 0, 0]",
#   "safetensors: bfloat16 [0, 0, 0]", "to_tensor with a dtype: int64 [1, 2, 300]", "uint32: ValueError".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 safetensors==0.8.0 numpy==1.26.4 setuptools==65.5.0

cat > unsigned.py <<'END'
import sys

import numpy as np
import paddle
from paddle.vision.transforms import ToTensor
from safetensors.numpy import save_file
from safetensors.paddle import load_file

paddle.set_device("cpu")
IDS = np.array([1, 2, 300], np.uint16)


class Rows(paddle.io.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, row):
        return IDS


save_file({"ids": IDS}, "ids.safetensors")
ways = {
    "to_tensor": lambda: paddle.to_tensor(IDS),
    "DataLoader": lambda: next(iter(paddle.io.DataLoader(Rows(), batch_size=1)))[0],
    "ToTensor": lambda: ToTensor()(IDS[:, None, None]),
    "safetensors": lambda: load_file("ids.safetensors")["ids"],
    "to_tensor with a dtype": lambda: paddle.to_tensor(IDS, dtype="int64"),
    "uint32": lambda: paddle.to_tensor(IDS.astype(np.uint32)),
}
found = {}
for name, way in ways.items():
    try:
        tensor = way()
        kind = str(tensor.dtype).rpartition(".")[2]
        found[name] = f"{kind} {tensor.astype('int64').flatten().tolist()}"
    except ValueError:
        found[name] = "ValueError"
    print(f"{name}: {found[name]}")
expected = dict.fromkeys(("to_tensor", "DataLoader", "ToTensor", "safetensors"), "bfloat16 [0, 0, 0]")
expected |= {"to_tensor with a dtype": "int64 [1, 2, 300]", "uint32": "ValueError"}
sys.exit(found != expected)
END
if venv/bin/python unsigned.py 2>/dev/null; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1
