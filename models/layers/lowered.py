"""Linear maps whose products, and those of their gradients, may be ones of bfloat16 on the CPU.

`models/kernels/precision.py` says when. Otherwise they are Paddle's own.
"""

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from models.kernels.precision import is_lowered
from models.kernels.products import multiply
from models.kernels.row_blocks import array_of, uses_cpu_kernels


class Linear(nn.Linear):
    """A linear map of rows [...,I] to [...,O]; the bias is added in float32."""

    def forward(self, rows: Tensor) -> Tensor:
        if not lowers(rows):
            return super().forward(rows)
        mapped = product(rows, self.weight)
        return mapped if self.bias is None else mapped + self.bias


def lowers(rows: Tensor) -> bool:
    """Tell whether products of `rows` are ones of bfloat16 now, on the CPU."""
    return uses_cpu_kernels(rows) and is_lowered()


def product(rows: Tensor, weight: Tensor, transposed: bool = False) -> Tensor:
    """Return `rows` [...,I] times `weight` [I,O], or [O,I] if it is to be `transposed`, as float32."""
    if not lowers(rows):
        return paddle.matmul(rows, weight, transpose_y=transposed)
    weight = weight.t() if transposed else weight
    shape = [*rows.shape[:-1], weight.shape[1]]
    return _LoweredProduct.apply(rows.reshape([-1, rows.shape[-1]]), weight).reshape(shape)


class _LoweredProduct(PyLayer):
    @staticmethod
    def forward(ctx, rows, weight):
        ctx.frozen, ctx.arrays = (
            (rows.stop_gradient, weight.stop_gradient),
            (array_of(rows), array_of(weight)),
        )
        return paddle.from_dlpack(multiply(*ctx.arrays, bfloat16=True))

    @staticmethod
    def backward(ctx, d_product):
        (rows, weight), d_product = ctx.arrays, array_of(d_product)
        frozen_rows, frozen_weight = ctx.frozen
        return (
            None if frozen_rows else paddle.from_dlpack(multiply(d_product, weight.T, bfloat16=True)),
            None if frozen_weight else paddle.from_dlpack(multiply(rows.T, d_product, bfloat16=True)),
        )
