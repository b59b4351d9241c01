"""Rows of a batch that several processes share: gathered from all of them, with gradients.

After each step the processes average their gradients, as if the loss were the mean of theirs: what reaches a
parameter by way of one process's rows is divided by their number W. A loss that every process computes alike,
on the rows of all, is therefore exact when each process's own rows receive W times their gradient, whether
the loss is a sum or a mean over the batch. As all know the whole loss, nothing travels on the way back.
"""

from collections.abc import Callable

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

Gather = Callable[..., tuple[Tensor, ...]]  # tensors [B,...] -> tensors [N,...]


def own_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return `tensors`: a loss of this process's rows alone."""
    return tensors


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the rows [N,...] of all processes, in their order, for this one's `tensors` [B,...].

    All are of one type and one B, which may differ between processes. They travel in one message.
    """
    if dist.get_world_size() == 1:
        return tensors
    flat = [tensor.reshape([len(tensor), -1]) for tensor in tensors]
    sizes = gather_counts(len(flat[0]))
    gathered = _GatherRows.apply(paddle.concat(flat, axis=1), sizes)  # [N, all columns]
    parts = gathered.split([part.shape[1] for part in flat], axis=1)
    return tuple(part.reshape([-1, *tensor.shape[1:]]) for part, tensor in zip(parts, tensors, strict=True))


def gather_counts(count: int) -> list[int]:
    """Return what every process calls with, in their order."""
    if dist.get_world_size() == 1:
        return [count]
    counts: list[Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([count]))
    return paddle.concat(counts).tolist()


def share_weight(count: int) -> float:
    """Return the factor that makes a mean over this process's `count` rows its part of that over all rows.

    It is the count over the mean count of all processes, which average their losses: 1 where all have as
    many.
    """
    counts = gather_counts(count)
    return count * len(counts) / sum(counts)


class _GatherRows(PyLayer):
    """Rows [B,F] of all processes, `sizes` of each, one after another."""

    @staticmethod
    def forward(ctx, rows, sizes):
        ctx.sizes = sizes
        padding = max(sizes) - len(rows)  # messages are of one size
        if padding:
            rows = paddle.concat([rows, paddle.zeros([padding, rows.shape[1]], rows.dtype)])
        parts: list[Tensor] = []
        dist.all_gather(parts, rows)
        return paddle.concat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, d_gathered):
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return d_gathered[start : start + ctx.sizes[rank]] * len(ctx.sizes)
