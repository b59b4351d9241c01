"""A transformer's row-wise layers, and their parts that `models/layers/bert/layers.py` computes on the CPU.

Each bias is added by the layer that follows the product.
"""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.mkl import erf
from models.kernels.row_blocks import array_of, uses_cpu_kernels
from models.layers import lowered

DENSITY_AT_0, SQRT_HALF = 1 / math.sqrt(2 * math.pi), math.sqrt(0.5)


class Linear(lowered.Linear):
    """A linear map of rows [N,I] to [N,O]."""

    def forward(self, rows: Tensor) -> Tensor:
        if not uses_cpu_kernels(rows) or lowered.lowers(rows):
            return super().forward(rows)
        return _Linear.apply(rows, self.weight, self.bias)

    def without_bias(self, rows: Tensor) -> Tensor:
        """Return the map of `rows` without the bias, for a layer that adds the bias itself."""
        return lowered.product(rows, self.weight)


class ResidualNorm(nn.LayerNorm):
    """Layer norm with bias, dropout and residual: LN(dropout(x + b) + residual)."""

    def __init__(self, dim: int, epsilon: float, dropout: float) -> None:
        super().__init__(dim, epsilon)
        self.epsilon, self.dropout = epsilon, dropout

    def forward(self, rows: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """Return LN(dropout(rows + bias) + residual) [N,D]; `rows` and `residual` are [N,D], `bias` [D]."""
        dropped = functional.dropout(rows + bias, self.dropout, training=self.training)
        return super().forward(dropped + residual)


def write_gelu(rows: np.ndarray, bias: np.ndarray, slope: np.ndarray | None = None) -> np.ndarray:
    """Replace `rows` [N,D] by x Phi(x) for x = rows + bias, Phi of the normal distribution, and return them.

    The slope Phi(x) + x phi(x) is written to `slope` [N,D], if given. Source: arXiv 1606.08415, eq. 2.
    """
    rows += bias
    phi = np.multiply(rows, SQRT_HALF, out=slope)
    if slope is not None:
        density = phi * phi
        np.negative(density, out=density)
        np.exp(density, out=density)  # exp(-x^2 / 2)
    erf(phi)
    phi += 1
    phi *= 0.5  # Phi(x)
    if slope is not None:
        density *= rows
        density *= DENSITY_AT_0
    rows *= phi
    if slope is not None:
        slope += density
    return rows


def standardise(rows: np.ndarray, epsilon: float) -> np.ndarray:
    """Give each row of `rows` [N,D] mean 0 and deviation 1, in place; return the rows' factors [N,1]."""
    rows -= np.einsum("nd->n", rows)[:, None] / rows.shape[1]  # faster than `mean` along short rows
    variance = np.einsum("nd,nd->n", rows, rows)[:, None] / rows.shape[1]
    inverse = 1 / np.sqrt(variance + epsilon)
    rows *= inverse
    return inverse


def dropout_seed() -> int:
    """Return a seed drawn from Paddle's generator, which the trainer seeds."""
    return paddle.randint(0, 2**31 - 1, [1]).item()


def dropout_mask(shape: tuple[int, ...], dropout: float, seed: int) -> np.ndarray:
    """Return bool of `shape`, true where dropout keeps a value; the mask depends on `seed` alone."""
    drawn = np.random.Generator(np.random.SFC64(seed)).integers(0, 1 << 16, shape, dtype=np.uint16)
    return drawn >= round(dropout * (1 << 16))


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx, rows, weight, bias):
        ctx.frozen = rows.stop_gradient, weight.stop_gradient, bias.stop_gradient
        ctx.save_for_backward(rows, weight)
        return functional.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx, d_mapped):
        rows, weight = ctx.saved_tensor()
        frozen_rows, frozen_weight, frozen_bias = ctx.frozen
        return (
            None if frozen_rows else paddle.matmul(d_mapped, weight, transpose_y=True),
            None if frozen_weight else paddle.matmul(rows, d_mapped, transpose_x=True),
            None if frozen_bias else paddle.from_dlpack(array_of(d_mapped).sum(axis=0)),
        )


def unless_frozen(frozen: tuple[bool, ...], *gradients: np.ndarray) -> tuple[Tensor | None, ...]:
    """Return the gradients as tensors, None for each that is `frozen`."""
    return tuple(
        None if skip else paddle.from_dlpack(gradient)
        for skip, gradient in zip(frozen, gradients, strict=True)
    )
