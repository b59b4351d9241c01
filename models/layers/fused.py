"""A transformer's row-wise layers: on the CPU in cache-sized blocks (`models/kernels/row_blocks.py`).

On a GPU, Paddle's own layers compute the same. On the CPU, Paddle's gelu, biases, dropout and layer norm
take, with their gradients, about as long as the matrix products. Here each bias is fused into the layer that
follows the product.
"""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from models.kernels.mkl import erf
from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels
from models.layers import lowered

DENSITY_AT_0, SQRT_HALF = 1 / math.sqrt(2 * math.pi), math.sqrt(0.5)
SQUARE_NEAR_0 = 1e-30  # of an x at which x Phi(x) may have underflowed
ARRAYS = 3  # as large as a block of rows, that a layer has in the cache besides its result


class Linear(lowered.Linear):
    """A linear map of rows [N,I] to [N,O]."""

    def forward(self, rows: Tensor) -> Tensor:
        if not uses_cpu_kernels(rows) or lowered.lowers(rows):
            return super().forward(rows)
        return _Linear.apply(rows, self.weight, self.bias)

    def without_bias(self, rows: Tensor) -> Tensor:
        """Return the map of `rows` without the bias, for a layer such as `gelu` that adds the bias itself."""
        return lowered.product(rows, self.weight)


def gelu(rows: Tensor, bias: Tensor) -> Tensor:
    """Return x Phi(x) for x = rows + bias [N,D], Phi of the normal distribution (arXiv 1606.08415, eq. 2)."""
    return _Gelu.apply(rows, bias) if uses_cpu_kernels(rows) else functional.gelu(rows + bias)


class ResidualNorm(nn.LayerNorm):
    """Layer norm with bias, dropout and residual fused: LN(dropout(x + b) + residual)."""

    def __init__(self, dim: int, epsilon: float, dropout: float) -> None:
        super().__init__(dim, epsilon)
        self.epsilon, self.dropout = epsilon, dropout

    def forward(self, rows: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """Return LN(dropout(rows + bias) + residual) [N,D]; `rows` and `residual` are [N,D], `bias` [D]."""
        dropout = self.dropout if self.training else 0.0
        if uses_cpu_kernels(rows):
            weights = self.weight, self.bias
            return _ResidualNorm.apply(rows, bias, residual, *weights, self.epsilon, dropout)
        return super().forward(functional.dropout(rows + bias, dropout) + residual)


def write_gelu(rows: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Write the gelu of rows + bias [N,D] to `out`, which may be `rows`."""
    x = rows + bias
    np.multiply(x, SQRT_HALF, out=out)
    erf(out)
    out += 1  # 2 Phi(x)
    x *= 0.5
    out *= x


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


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx, rows, bias):
        ctx.frozen = rows.stop_gradient, bias.stop_gradient
        rows, bias = array_of(rows), array_of(bias)
        activated = np.empty_like(rows)

        for_each_block(
            lambda block: write_gelu(rows[block], bias, activated[block]),
            len(rows),
            ARRAYS * rows[:1].nbytes,
        )
        ctx.saved = rows, bias, activated
        return paddle.from_dlpack(activated)

    @staticmethod
    def backward(ctx, d_activated):
        """Divide the stored x Phi(x) by x to get Phi(x), which is less work than the error function."""
        rows, bias, activated = ctx.saved
        d_activated, d_rows = array_of(d_activated), np.empty_like(rows)
        sums = BlockSums()

        def step_back(block: slice) -> None:
            x = rows[block] + bias
            density = np.multiply(x, x, out=d_rows[block])
            near_0 = density < SQUARE_NEAR_0
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.divide(activated[block], x)  # Phi(x)
            if near_0.any():
                slope[near_0] = 0.5
            density *= -0.5
            np.exp(density, out=density)
            x *= DENSITY_AT_0
            density *= x
            density += slope
            density *= d_activated[block]
            sums.add(block.start, density.sum(axis=0))

        for_each_block(step_back, len(rows), ARRAYS * rows[:1].nbytes)
        return unless_frozen(ctx.frozen, d_rows, *sums.totals())


class _ResidualNorm(PyLayer):
    @staticmethod
    def forward(ctx, rows, bias, residual, weight, shift, epsilon, dropout):
        inputs = rows, bias, residual, weight, shift
        ctx.frozen = tuple(tensor.stop_gradient for tensor in inputs)
        rows, bias, residual, weight, shift = map(array_of, inputs)
        kept = dropout_mask(rows.shape, dropout, dropout_seed()) if dropout else None
        scale = np.float32(1 / (1 - dropout))
        standard, normalised = np.empty_like(rows), np.empty_like(rows)
        inverse = np.empty((len(rows), 1), rows.dtype)

        def step(block: slice) -> None:
            x = np.add(rows[block], bias, out=standard[block])
            if kept is not None:
                x *= kept[block]
                x *= scale
            x += residual[block]
            inverse[block] = standardise(x, epsilon)
            np.multiply(x, weight, out=normalised[block])
            normalised[block] += shift

        for_each_block(step, len(rows), rows[:1].nbytes)
        ctx.saved = standard, inverse, weight, kept, scale
        return paddle.from_dlpack(normalised)

    @staticmethod
    def backward(ctx, d_normalised):
        standard, inverse, weight, kept, scale = ctx.saved
        d_normalised = array_of(d_normalised)
        d_rows, d_residual = np.empty_like(standard), np.empty_like(standard)
        sums = BlockSums()

        def step_back(block: slice) -> None:
            x, d_out = standard[block], d_normalised[block]
            d_weight, d_shift = np.einsum("nd,nd->d", x, d_out), d_out.sum(axis=0)
            d_sum = np.multiply(d_out, weight, out=d_residual[block])
            along = np.einsum("nd,nd->n", x, d_sum)[:, None] / x.shape[1]
            d_sum -= np.einsum("nd->n", d_sum)[:, None] / x.shape[1]
            d_sum -= x * along
            d_sum *= inverse[block]
            if kept is None:  # rows and residual have the same gradient, but may not share memory
                d_rows[block] = d_sum
            else:
                np.multiply(d_sum, kept[block], out=d_rows[block])
                d_rows[block] *= scale
            sums.add(block.start, d_rows[block].sum(axis=0), d_weight, d_shift)

        for_each_block(step_back, len(standard), standard[:1].nbytes)
        d_bias, d_weight, d_shift = sums.totals()
        return unless_frozen(ctx.frozen, d_rows, d_bias, d_residual, d_weight, d_shift)


class BlockSums:
    """Sums over the rows of each block, added in the order of the blocks and not in that of the threads."""

    def __init__(self) -> None:
        self._of_block: dict[int, tuple[np.ndarray, ...]] = {}

    def add(self, start: int, *sums: np.ndarray) -> None:
        self._of_block[start] = sums

    def totals(self) -> list[np.ndarray]:
        parts = [self._of_block[start] for start in sorted(self._of_block)]
        return [np.sum(column, axis=0) for column in zip(*parts, strict=True)]


def unless_frozen(frozen: tuple[bool, ...], *gradients: np.ndarray) -> tuple[Tensor | None, ...]:
    """Return the gradients as tensors, None for each that is `frozen`."""
    return tuple(
        None if skip else paddle.from_dlpack(gradient)
        for skip, gradient in zip(frozen, gradients, strict=True)
    )
