"""What a transformer does to each row, on the CPU in cache-sized blocks (`models/row_blocks.py`).

Paddle's own layers compute the same, and do so on a GPU. On the CPU its sums over rows, its dropout and the
gradients of gelu and layer normalisation take longer than all else but the products of matrices.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.encoders import on_cpu
from models.row_blocks import array_of, for_each_block

DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


class Linear(nn.Linear):
    """A linear map of rows [N,I] to [N,O]."""

    def forward(self, rows: Tensor) -> Tensor:
        if not on_cpu(rows):
            return super().forward(rows)
        return _Linear.apply(rows, self.weight, self.bias)


def gelu(rows: Tensor) -> Tensor:
    """Return x Phi(x), with the normal distribution's Phi itself (Hendrycks and Gimpel 2016, eq. 2)."""
    return _Gelu.apply(rows) if on_cpu(rows) else functional.gelu(rows)


class ResidualNorm(nn.LayerNorm):
    """Layer normalisation of a sum whose first term is dropped in part: LN(dropout(x) + residual)."""

    def __init__(self, dim: int, epsilon: float, dropout: float) -> None:
        super().__init__(dim, epsilon)
        self.dropout = dropout

    def forward(self, rows: Tensor, residual: Tensor) -> Tensor:
        """Return [N,D] of two times [N,D]."""
        dropout = self.dropout if self.training else 0.0
        if on_cpu(rows):
            return _ResidualNorm.apply(rows, residual, self.weight, self.bias, self._epsilon, dropout)
        return super().forward(functional.dropout(rows, dropout) + residual)


def dropout_seed() -> int:
    """Return a seed from Paddle's generator, the one that the trainer seeds."""
    return paddle.randint(0, 2**31 - 1, [1]).item()


def kept_by_dropout(shape: tuple[int, ...], dropout: float, seed: int) -> np.ndarray:
    """Return bool `shape`, what dropout keeps: the same for a seed whichever thread asks."""
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
        return _unless_frozen(
            ctx.frozen,
            lambda: paddle.matmul(d_mapped, weight, transpose_y=True),
            lambda: paddle.matmul(rows, d_mapped, transpose_x=True),
            lambda: paddle.from_dlpack(array_of(d_mapped).sum(axis=0)),
        )


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx, rows):
        activated = functional.gelu(rows)
        ctx.saved = array_of(rows), array_of(activated)
        return activated

    @staticmethod
    def backward(ctx, d_activated):
        """Take Phi(x) from what was kept, x Phi(x): NumPy has no error function."""
        rows, activated = ctx.saved
        d_activated, d_rows = array_of(d_activated), np.empty_like(rows)

        def step_back(block: slice) -> None:
            x = rows[block]
            near_0 = np.abs(x) < 1e-3
            slope = np.divide(activated[block], np.where(near_0, 1, x))  # Phi(x)
            np.copyto(slope, 0.5 + DENSITY_AT_0 * x, where=near_0)
            density = np.multiply(x, x, out=d_rows[block])
            density *= -0.5
            np.exp(density, out=density)
            density *= x
            density *= DENSITY_AT_0
            density += slope
            density *= d_activated[block]

        for_each_block(step_back, len(rows), rows[:1].nbytes)
        return paddle.from_dlpack(d_rows)


class _ResidualNorm(PyLayer):
    @staticmethod
    def forward(ctx, rows, residual, weight, bias, epsilon, dropout):
        ctx.frozen = rows.stop_gradient, residual.stop_gradient, weight.stop_gradient, bias.stop_gradient
        rows, residual, weight, bias = map(array_of, (rows, residual, weight, bias))
        kept = kept_by_dropout(rows.shape, dropout, dropout_seed()) if dropout else None
        scale = np.float32(1 / (1 - dropout))
        standard, normalised = np.empty_like(rows), np.empty_like(rows)
        inverse = np.empty((len(rows), 1), rows.dtype)

        def normalise(block: slice) -> None:
            x = standard[block]
            if kept is None:
                np.add(rows[block], residual[block], out=x)
            else:
                np.multiply(rows[block], kept[block], out=x)
                x *= scale
                x += residual[block]
            x -= x.mean(axis=1, keepdims=True)
            variance = np.einsum("nd,nd->n", x, x)[:, None] / x.shape[1]
            inverse[block] = 1 / np.sqrt(variance + epsilon)
            x *= inverse[block]
            np.multiply(x, weight, out=normalised[block])
            normalised[block] += bias

        for_each_block(normalise, len(rows), rows[:1].nbytes)
        ctx.saved = standard, inverse, weight, kept, scale
        return paddle.from_dlpack(normalised)

    @staticmethod
    def backward(ctx, d_normalised):
        standard, inverse, weight, kept, scale = ctx.saved
        d_normalised = array_of(d_normalised)
        d_rows = np.empty_like(standard)
        d_residual = d_rows if kept is None else np.empty_like(standard)
        sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def step_back(block: slice) -> None:
            x, d_out = standard[block], d_normalised[block]
            sums[block.start] = np.einsum("nd,nd->d", x, d_out), d_out.sum(axis=0)
            d_sum = np.multiply(d_out, weight, out=d_residual[block])
            along = np.einsum("nd,nd->n", x, d_sum)[:, None] / x.shape[1]
            d_sum -= d_sum.mean(axis=1, keepdims=True)
            d_sum -= x * along
            d_sum *= inverse[block]
            if kept is not None:
                np.multiply(d_sum, kept[block], out=d_rows[block])
                d_rows[block] *= scale

        for_each_block(step_back, len(standard), standard[:1].nbytes)
        d_weight, d_bias = (
            np.sum([sums[start][number] for start in sorted(sums)], axis=0) for number in (0, 1)
        )
        if kept is None:  # then both have the same gradient, but may not share memory
            d_residual = d_rows.copy()
        gradients = d_rows, d_residual, d_weight, d_bias
        return _unless_frozen(ctx.frozen, *(partial(paddle.from_dlpack, gradient) for gradient in gradients))


def _unless_frozen(frozen: tuple[bool, ...], *makers: Callable[[], Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients, without making those of what is frozen."""
    return tuple(None if skip else make() for skip, make in zip(frozen, makers, strict=True))
