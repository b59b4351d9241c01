"""Linear maps on the CPU, whose products go through the one door (`models/kernels/products.py`).

There the bias is where the product is added up, instead of a further pass of Paddle's, which takes 3 ns a
number. Products, and those of their gradients, may be ones of bfloat16; `models/kernels/precision.py` says
when. Elsewhere these maps are Paddle's own.
"""

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from models.kernels.precision import is_lowered
from models.kernels.products import multiply
from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels


class Linear(nn.Linear):
    """A linear map of rows [...,I] to [...,O]; the bias is added in float32."""

    def forward(self, rows: Tensor) -> Tensor:
        return product(rows, self.weight, bias=self.bias)


def lowers(rows: Tensor) -> bool:
    """Tell whether products of `rows` are ones of bfloat16 now, on the CPU."""
    return uses_cpu_kernels(rows) and is_lowered()


def product(
    rows: Tensor,
    weight: Tensor,
    transposed: bool = False,
    bias: Tensor | None = None,
    outer: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return `rows` [...,I] times `weight` [I,O], or [O,I] if it is to be `transposed`, plus `bias` [O].

    With a bias, `outer`, a column [N,1] and a vector [O], adds the product of both to the N rows.
    """
    if not uses_cpu_kernels(rows):
        mapped = paddle.matmul(rows, weight, transpose_y=transposed)
        mapped = mapped if bias is None else mapped + bias
        return mapped if outer is None else mapped + outer[0] * outer[1]
    added = [] if bias is None else [bias, *(outer or ())]
    mapped = _Product.apply(rows.reshape([-1, rows.shape[-1]]), weight, *added, transposed=transposed)
    return mapped if rows.ndim == 2 else mapped.reshape([*rows.shape[:-1], mapped.shape[1]])


class _Product(PyLayer):
    @staticmethod
    def forward(ctx, *tensors, transposed):
        ctx.frozen, ctx.bfloat16 = [tensor.stop_gradient for tensor in tensors], is_lowered()
        rows, weight, *added = map(array_of, tensors)
        weight = weight.T if transposed else weight
        ctx.transposed, ctx.arrays = transposed, (rows, weight, *added[1:])
        mapped = np.empty((len(rows), weight.shape[1]), rows.dtype)

        def begin(block: slice) -> None:
            if len(added) == 1:
                mapped[block] = added[0]
            else:
                np.multiply(added[1][block], added[2], out=mapped[block])
                mapped[block] += added[0]

        if added:
            for_each_block(begin, len(rows), mapped[:1].nbytes)
        return paddle.from_dlpack(multiply(rows, weight, mapped, add=bool(added), bfloat16=ctx.bfloat16))

    @staticmethod
    def backward(ctx, d_mapped):
        (rows, weight, *outer), d_mapped = ctx.arrays, array_of(d_mapped)
        factors = (d_mapped.T, rows) if ctx.transposed else (rows.T, d_mapped)
        # Sums of gradients are products, since `sum` adds row after row and rounds more. They are ones of
        # float32, as is what they are gradients of.
        gradients = [
            lambda: multiply(d_mapped, weight.T, bfloat16=ctx.bfloat16),
            lambda: multiply(*factors, bfloat16=ctx.bfloat16),
            lambda: multiply(np.ones((1, len(rows)), d_mapped.dtype), d_mapped)[0],
            lambda: multiply(d_mapped, outer[1][:, None]),
            lambda: multiply(outer[0].T, d_mapped)[0],
        ]
        return tuple(
            None if frozen else paddle.from_dlpack(gradient())
            for frozen, gradient in zip(ctx.frozen, gradients, strict=False)
        )
