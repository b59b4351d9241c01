"""All-gather of a batch's rows from all processes, with gradients.

After each step the W processes average their gradients, so the gradient that reaches a parameter through the
rows of one process is divided by W. If every process computes the same loss, on the rows of all processes,
the gradient is therefore exact if each process's own rows receive W times their gradient, be the loss a sum
or a mean over the batch. The backward pass needs no communication, since every process computes the whole
loss.
"""

from collections.abc import Callable

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

Gather = Callable[..., tuple[Tensor, ...]]  # tensors [B,...] -> tensors [N,...]


def own_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return `tensors` as they are, for a loss of this process's rows alone."""
    return tensors


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the rows [N,...] of all processes, in the order of the processes, given `tensors` [B,...].

    The tensors of a process have the same type and the same B; B may differ between processes. One all-gather
    sends all tensors together.
    """
    if dist.get_world_size() == 1:
        return tensors
    flat = [tensor.reshape([len(tensor), -1]) for tensor in tensors]
    sizes = gather_counts(len(flat[0]))
    gathered = _GatherRows.apply(paddle.concat(flat, axis=1), sizes)  # [N, all columns]
    parts = gathered.split([part.shape[1] for part in flat], axis=1)
    return tuple(part.reshape([-1, *tensor.shape[1:]]) for part, tensor in zip(parts, tensors, strict=True))


def gather_counts(count: int) -> list[int]:
    """Return the `count` of every process, in the order of the processes."""
    if dist.get_world_size() == 1:
        return [count]
    counts: list[Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([count]))
    return paddle.concat(counts).tolist()


def share_weight(count: int) -> float:
    """Return the weight of the mean over this process's `count` rows in the mean over all processes' rows.

    The processes average their losses, so the weight is `count` divided by the mean count of all processes:
    1 if all have equally many rows.
    """
    counts = gather_counts(count)
    return count * len(counts) / sum(counts)


class _GatherRows(PyLayer):
    """All-gather of rows [B,F]; `sizes` are the B of all processes."""

    @staticmethod
    def forward(ctx, rows, sizes):
        ctx.sizes = sizes
        padding = max(sizes) - len(rows)  # all-gather needs equal sizes
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
