"""Matrix products of 8-bit integers by the oneDNN that Paddle contains, on the calling thread alone."""

import ctypes

import numpy as np

from models.kernels import onednn

_NO_TRANSPOSE, _TRANSPOSE, _ONE_OFFSET = b"N", b"T", b"F"


def multiply_int8_on_one_thread(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a` [M,K] times the transpose of `b` [N,K], int8 with contiguous rows, as int32 [M,N].

    The sums must fit into 32 bits. The processor must have instructions for such products (VNNI), which all
    have that multiply bfloat16: older ones add up in 16 bits.
    """
    out, offset = np.empty((len(a), len(b)), np.int32), ctypes.c_int32(0)
    integer, number, pointer, short = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, ctypes.c_int8
    letters = map(ctypes.c_char, (_NO_TRANSPOSE, _TRANSPOSE, _ONE_OFFSET))
    onednn.call_on_one_thread(
        "dnnl_gemm_s8s8s32",
        *(*letters, integer(len(a)), integer(len(b)), integer(a.shape[1]), number(1)),
        *(pointer(a.ctypes.data), integer(a.strides[0]), short(0)),
        *(pointer(b.ctypes.data), integer(b.strides[0]), short(0)),
        *(number(0), pointer(out.ctypes.data), integer(out.shape[1]), ctypes.byref(offset)),
    )
    return out
