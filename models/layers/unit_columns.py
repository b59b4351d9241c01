"""Columns of matrices divided by their norms, on the CPU in two passes over the memory, there and back.

VSRN normalises each dimension over the regions of an image; Paddle's operations pass over them ten times.
"""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from models.kernels.row_blocks import array_of, for_each_block


def unit_columns(x: Tensor, smallest: float) -> Tensor:
    """Return `x` [B,R,D] divided by its l2 norm over R, or by `smallest` where the norm is smaller."""
    return _UnitColumns.apply(x, smallest)


class _UnitColumns(PyLayer):
    @staticmethod
    def forward(ctx, x, smallest):
        x = array_of(x)
        units, norms = np.empty_like(x), np.empty((len(x), 1, x.shape[2]), x.dtype)

        def divide(block: slice) -> None:
            squares = np.einsum("brd,brd->bd", x[block], x[block])[:, None]
            np.sqrt(np.maximum(squares, smallest**2), out=norms[block])
            np.divide(x[block], norms[block], out=units[block])

        for_each_block(divide, len(x), x[:1].nbytes)
        ctx.saved = units, norms, norms > smallest
        return paddle.from_dlpack(units)

    @staticmethod
    def backward(ctx, d_units):
        units, norms, moves = ctx.saved  # a norm below the smallest one does not move with x
        d_units, d_x = array_of(d_units), np.empty_like(units)

        def step_back(block: slice) -> None:
            along = np.einsum("brd,brd->bd", units[block], d_units[block])[:, None] * moves[block]
            target = np.multiply(units[block], along, out=d_x[block])
            np.subtract(d_units[block], target, out=target)
            target /= norms[block]

        for_each_block(step_back, len(units), units[:1].nbytes)
        return paddle.from_dlpack(d_x)
