#!/bin/sh
# oneDNN 3.6.2 multiplies a row whose numbers lie apart as if they lay side by side, and reports success.
#
# Versions: the libdnnl of paddlepaddle 3.3.1 (oneDNN 3.6.2), Python 3.11, NumPy 1.26.4, Linux on x86-64; no network but PyPI.
# Guess: a matmul whose source is one row of K numbers, described with strides (1, 129) between rows and columns,
#   reads every 129th number, as it does with two rows and the same strides.
# Behaviour: with two rows and more the product is right. With one row and 17 columns it is that of the first K
#   numbers in memory. No status says so.
# Seen: "rows 2: largest error 0.0", "rows 1: largest error" above 1, "side by side: largest error 0.0", each up to rounding.
# Exits with 0 while oneDNN behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0 numpy==1.26.4

cat > row.py <<'END'
import ctypes
import sys
from pathlib import Path

import numpy as np
import paddle

library = ctypes.CDLL(str(Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"))
FLOAT32, SOURCE, WEIGHTS, DESTINATION = 3, 1, 33, 17
K, N, APART = 33, 17, 129


class Argument(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("memory", ctypes.c_void_p))


def made(function, *arguments):
    pointer = ctypes.c_void_p()
    status = getattr(library, function)(ctypes.byref(pointer), *arguments)
    assert status == 0, (function, status)
    return pointer


def layout(shape, strides):
    sizes, steps = ((ctypes.c_int64 * 2)(*each) for each in (shape, strides))
    return made("dnnl_memory_desc_create_with_strides", 2, sizes, FLOAT32, steps)


engine = made("dnnl_engine_create", 1, ctypes.c_size_t(0))
stream = made("dnnl_stream_create", engine, 1)
random = np.random.default_rng(0)
memory, b = random.standard_normal((K, APART), dtype=np.float32), random.standard_normal((K, N), dtype=np.float32)


def product(rows):
    layouts = layout((rows, K), (1, APART)), layout((K, N), (N, 1)), layout((rows, N), (N, 1))
    operation = made("dnnl_matmul_primitive_desc_create", engine, layouts[0], layouts[1], None, layouts[2], None)
    primitive, out = made("dnnl_primitive_create", operation), np.zeros((rows, N), np.float32)
    arrays = (SOURCE, memory), (WEIGHTS, b), (DESTINATION, out)
    arguments = (Argument * 3)()
    for place, ((number, array), lies) in enumerate(zip(arrays, layouts)):
        held = made("dnnl_memory_create", lies, engine, ctypes.c_void_p(array.ctypes.data))
        arguments[place] = Argument(number, held)
    assert library.dnnl_primitive_execute(primitive, stream, 3, arguments) == 0
    library.dnnl_stream_wait(stream)
    return out


def error(found, expected):
    return float(np.abs(found - expected).max())


two = error(product(2), memory[:, :2].T @ b)
one = error(product(1), memory[:, :1].T @ b)
beside = error(product(1), memory.reshape(-1)[None, :K] @ b)
print(f"rows 2: largest error {two:.1e}")
print(f"rows 1: largest error {one:.1e}")
print(f"side by side: largest error {beside:.1e}")
sys.exit(0 if two < 1e-4 and one > 1 and beside < 1e-4 else 1)
END
venv/bin/python row.py
