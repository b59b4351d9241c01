"""Batch norm over the rows of all processes, on any device: Paddle's SyncBatchNorm has no CPU kernel."""

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from models.kernels.row_blocks import uses_cpu_kernels
from models.layers.batch_norm import BatchNorm

_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D)  # BatchNorm is one of them


class SynchronisedBatchNorm(nn.Layer):
    """A batch norm over all processes that replaces `norm` and has its parameters and running statistics.

    In training, mean and variance are those of the values [N,C] or [N,C,H,W] of all processes together. The
    running variance is unbiased if `norm` is our `BatchNorm`, and biased, as Paddle's, otherwise.
    """

    def __init__(self, norm: nn.BatchNorm1D | nn.BatchNorm2D) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._mean, self._variance = norm._mean, norm._variance
        self._momentum, self._epsilon = norm._momentum, norm._epsilon
        self._unbiased = isinstance(norm, BatchNorm)

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised `values` [N,C] or [N,C,H,W]."""
        if not self.training:
            return nn.functional.batch_norm(
                values, self._mean, self._variance, self.weight, self.bias, epsilon=self._epsilon
            )
        found: list[Tensor] = []
        normalised = _Normalise.apply(values, self.weight, self.bias, self._epsilon, found)
        count, mean, variance = found
        if self._unbiased:
            variance = variance * (count / max(1, count - 1))
        momentum = self._momentum
        with paddle.no_grad():
            self._mean.set_value(momentum * self._mean + (1 - momentum) * mean.astype("float32"))
            self._variance.set_value(momentum * self._variance + (1 - momentum) * variance.astype("float32"))
        return normalised


def synchronise_batch_norms(model: nn.Layer) -> None:
    """Replace the batch norms in `model`, in place, by ones whose statistics are those of all processes."""
    for layer in list(model.sublayers(include_self=True)):
        for name, child in list(layer.named_children()):
            if isinstance(child, _NORMS):
                setattr(layer, name, SynchronisedBatchNorm(child))


class _Normalise(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, with statistics of each channel of x [N,C,...].

    The statistics are over the values of all processes, which an all-reduce sums.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, found):
        """Append the number of values per channel, their mean and biased variance [C] to the list `found`."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = x.astype(
            "float64" if uses_cpu_kernels(x) else "float32"
        )  # Paddle's float32 sums lose digits there
        count = x.size // x.shape[1]
        own_mean = wide.mean(axes, keepdim=True)
        squares = ((wide - own_mean) ** 2).sum(axes).astype("float64")
        own_mean = own_mean.flatten().astype("float64")
        number = paddle.full([1], count, "float64")
        sums = paddle.concat([number, count * own_mean, squares + count * own_mean**2])
        dist.all_reduce(sums)
        total, sums = int(sums[0]), sums[1:].reshape([2, -1])
        mean = sums[0] / total
        variance = (sums[1] / total - mean**2).clip(min=0.0)
        found += [total, mean, variance]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        center = mean.astype("float32").reshape(shape)
        inverse = (1 / (variance + epsilon).sqrt()).astype("float32").reshape(shape)
        scale = weight.reshape(shape) * inverse
        ctx.saved = x, center, inverse, scale, axes, total
        return ((x - center) * scale + bias.reshape(shape)).astype(x.dtype)

    @staticmethod
    def backward(ctx, d_out):
        x, center, inverse, scale, axes, total = ctx.saved
        wide = "float64" if uses_cpu_kernels(x) else "float32"
        standard = (x - center) * inverse
        own = paddle.stack(
            [each.astype(wide).sum(axes).astype("float64") for each in (d_out, d_out * standard)]
        )
        sums = own.clone()
        dist.all_reduce(sums)
        mean_out, mean_product = (
            (sums[row] / total).astype("float32").reshape(scale.shape) for row in (0, 1)
        )
        d_x = (d_out - mean_out - standard * mean_product) * scale
        return d_x.astype(x.dtype), own[1].astype("float32"), own[0].astype("float32")
