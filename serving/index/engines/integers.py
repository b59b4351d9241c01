"""Products of small integers, by ONNX Runtime: a few rows of one byte a number with many columns.

NumPy multiplies integers number by number; ONNX Runtime uses a processor's instructions for them (VNNI, AMX,
dot products of ARM). For one row it reads the columns where they are, as fast as memory is read; for several
it first copies each block of columns into another order, once for all. The graph has one node,
`MatMulInteger`. It is put together here, since a machine that searches has no package that writes graphs.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from config.errors import UserError

ZERO = 64  # what is added to the numbers of rows, which have no sign
LARGEST = 63  # of a row, before: sums of two products fit into 16 bits, where AVX2 rounds larger ones
_UINT8, _INT8, _INT32 = 2, 3, 6  # kinds of ONNX
_IR_VERSION, _OPSET = 4, 10


def multiply(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the products, int32 [M,N], of uint8 `rows` [M,D] with int8 `columns` [D,N].

    No number of `rows` may be further than LARGEST from ZERO, and none of `columns` may be -128. The products
    are exact for D of up to 100,000. They run on the calling thread. Raises UserError without ONNX Runtime.
    """
    return _session().run(None, {"rows": rows, "columns": columns})[0]


@cache
def _session():
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError(
            "this index needs the package onnxruntime: pip install -r requirements-serving.txt"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph(), options, providers=["CPUExecutionProvider"])


def graph() -> bytes:
    """Return the graph of `multiply`, in the wire format of ONNX (onnx.proto of ONNX 1.5)."""
    node = [_text(1, "rows"), _text(1, "columns"), _text(2, "products"), _text(4, "MatMulInteger")]
    parts = [_message(1, node), _text(2, "products")]
    parts += [_message(11, _tensor("rows", _UINT8)), _message(11, _tensor("columns", _INT8))]
    parts.append(_message(12, _tensor("products", _INT32)))
    return b"".join([_number(1, _IR_VERSION), _message(7, parts), _message(8, [_number(2, _OPSET)])])


def _tensor(name: str, kind: int) -> list[bytes]:
    """Return a tensor of two axes of any size."""
    shape = _message(2, [_message(1, [])] * 2)
    return [_text(1, name), _message(2, [_message(1, [_number(1, kind), shape])])]


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _message(field: int, parts: Sequence[bytes]) -> bytes:
    return _bytes(field, b"".join(parts))


def _bytes(field: int, value: bytes) -> bytes:
    length = [len(value) & 127 | 128, len(value) >> 7] if len(value) > 127 else [len(value)]
    return bytes([field << 3 | 2, *length]) + value
