"""Batch norm as PyTorch computes it, so that converted and reproduced models agree with the originals."""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from models.kernels.row_blocks import array_of, for_each_block, uses_cpu_kernels


class BatchNorm(nn.BatchNorm1D):
    """Batch norm of rows [N,D] as in PyTorch.

    The running variance is unbiased: the sum of squares is divided by N - 1, where Paddle divides by N. On
    the CPU, sums are in double precision; Paddle's are not, which costs its gradients a digit.
    """

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        count = len(rows)
        if uses_cpu_kernels(rows):
            statistics: list[np.ndarray] = []
            normalised = _Normalise.apply(rows, self.weight, self.bias, self._epsilon, statistics)
            mean, variance = (paddle.to_tensor(value.astype(array_of(rows).dtype)) for value in statistics)
        elif count == 1:  # Paddle's batch_norm returns a single row unchanged
            mean, variance = rows.detach()[0], paddle.zeros_like(self._variance)
            normalised = (rows - rows) * self.weight + self.bias
        else:
            mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
            normalised = nn.functional.batch_norm(
                rows, mean, variance, self.weight, self.bias, True, 0.0, self._epsilon, "NC"
            )  # with a momentum of 0, the running statistics are those of the batch
        momentum, unbiased = self._momentum, variance * (count / max(1, count - 1))
        with paddle.no_grad():
            self._mean.set_value(momentum * self._mean + (1 - momentum) * mean)
            self._variance.set_value(momentum * self._variance + (1 - momentum) * unbiased)
        return normalised


class _Normalise(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, with statistics over the rows of x [N,D]."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, statistics):
        """Append the mean and the biased variance, both float64 [D], to the list `statistics`."""
        rows, weight, bias = map(array_of, (x, weight, bias))
        mean = _sum_over_rows(lambda block: rows[block], rows) / len(rows)
        center = mean.astype(rows.dtype)
        variance = _sum_over_rows(lambda block: np.square(rows[block] - center), rows) / len(rows)
        statistics += [mean, variance]
        inverse = (1 / np.sqrt(variance + epsilon)).astype(rows.dtype)
        normalised, scale = np.empty_like(rows), weight * inverse

        def normalise(block: slice) -> None:
            target = np.subtract(rows[block], center, out=normalised[block])
            target *= scale
            target += bias

        for_each_block(normalise, len(rows), rows[0].nbytes)
        ctx.saved = rows, center, inverse, scale
        return paddle.from_dlpack(normalised)

    @staticmethod
    def backward(ctx, d_normalised):
        d_out = array_of(d_normalised)
        rows, center, inverse, scale = ctx.saved
        d_bias = _sum_over_rows(lambda block: d_out[block], rows)
        d_weight = _sum_over_rows(lambda block: (rows[block] - center) * inverse * d_out[block], rows)
        mean_out = (d_bias / len(rows)).astype(rows.dtype)
        mean_product = (d_weight / len(rows)).astype(rows.dtype) * inverse
        d_rows = np.empty_like(rows)

        def step_back(block: slice) -> None:
            target = np.subtract(center, rows[block], out=d_rows[block])
            target *= mean_product
            target += d_out[block]
            target -= mean_out
            target *= scale

        for_each_block(step_back, len(rows), rows[0].nbytes)
        gradients = d_rows, d_weight.astype(rows.dtype), d_bias.astype(rows.dtype)
        return tuple(map(paddle.from_dlpack, gradients))


def _sum_over_rows(values: Callable[[slice], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the sum [D], float64, of the rows `values(block)` [n,D] over all blocks of `rows` [N,D]."""
    sums: dict[int, np.ndarray] = {}

    def add_up(block: slice) -> None:
        sums[block.start] = values(block).sum(axis=0, dtype=np.float64)

    for_each_block(add_up, len(rows), rows[0].nbytes)
    return np.sum([sums[start] for start in sorted(sums)], axis=0)
