"""Means over processes of one machine, taken in memory that they share.

On the CPU Paddle's processes talk by gloo, which goes through sockets even on one machine and takes twice as
long. The memory has no name in the file system: it ends with the processes, however they end.
"""

import functools
import mmap
import os
import secrets

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from models.gathering import gather_counts, gather_rows
from models.kernels.row_blocks import array_of, for_each_block

_LINE = 16  # numbers of a line of the cache, at which arrays begin
_HEAD = 64  # bytes before the numbers: the segment's token


def take_means(tensors: list[Tensor]) -> bool:
    """Replace `tensors` by their means over all processes; False, and nothing done, where that cannot be.

    It can be on the CPU of one machine, for float32. All processes call it, with tensors of the same sizes.
    """
    if paddle.get_device() != "cpu" or any(tensor.dtype != paddle.float32 for tensor in tensors):
        return False
    memory = _memory(tuple(tensor.size for tensor in tensors))
    if memory is not None:
        memory.take_means(tensors)
    return memory is not None


class _SharedMemory:
    """A segment [S] of each process, in the order of the processes, with room for arrays of some sizes."""

    def __init__(self, segments: list[mmap.mmap], rank: int, sizes: tuple[int, ...]) -> None:
        edges = _edges(sizes)
        self._places = [slice(start, start + size) for start, size in zip(edges[:-1], sizes, strict=True)]
        self._segments = [np.frombuffer(segment, np.float32, edges[-1], _HEAD) for segment in segments]
        self._rank = rank
        lines = edges[-1] // _LINE
        self._share = range(lines * rank // len(segments), lines * (rank + 1) // len(segments))

    def take_means(self, tensors: list[Tensor]) -> None:
        """Replace `tensors` by their means: each process adds up a share, in the first segment."""
        dist.barrier()  # all have read what was there
        for place, tensor in zip(self._places, tensors, strict=True):
            self._segments[self._rank][place] = array_of(tensor).reshape(-1)
        dist.barrier()
        if len(self._share):
            for_each_block(self._add_up, len(self._share), _LINE * 4 * len(self._segments))
        dist.barrier()
        for place, tensor in zip(self._places, tensors, strict=True):
            mean = self._segments[0][place].reshape(tensor.shape)
            paddle.assign(paddle.from_dlpack(mean), output=tensor)

    def _add_up(self, lines: slice) -> None:
        start = self._share.start
        block = slice((start + lines.start) * _LINE, (start + lines.stop) * _LINE)
        first, *others = (segment[block] for segment in self._segments)
        for other in others:
            first += other
        first *= np.float32(1 / len(self._segments))


def _edges(sizes: tuple[int, ...]) -> list[int]:
    """Return where arrays of these sizes begin, one behind the other, and where the last one's room ends."""
    return np.cumsum([0, *(-(-size // _LINE) * _LINE for size in sizes)]).tolist()


@functools.lru_cache(maxsize=1)
def _memory(sizes: tuple[int, ...]) -> _SharedMemory | None:
    """Return memory that all processes share; None, in all, where one cannot see another's."""
    size, token = _HEAD + 4 * _edges(sizes)[-1], secrets.randbits(62)
    descriptor = _make(size, token)
    (rows,) = gather_rows(paddle.to_tensor([[os.getpid(), descriptor, token]]))
    segments = [_open(*row, size) for row in rows.tolist()]
    failed = gather_counts(int(None in segments))  # and then all have opened them
    if descriptor >= 0:
        os.close(descriptor)
    return None if any(failed) else _SharedMemory(segments, dist.get_rank(), sizes)


def _make(size: int, token: int) -> int:
    """Return the descriptor of a new segment; -1 where the system has no such memory, or refuses it."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        descriptor = os.memfd_create("gradients")
    except OSError:
        return -1
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, token.to_bytes(8, "little"), 0)
    return descriptor


def _open(process: int, descriptor: int, token: int, size: int) -> mmap.mmap | None:
    """Return the segment of a process; None where it is on another machine, or not to be seen."""
    try:
        with open(f"/proc/{process}/fd/{descriptor}", "r+b", buffering=0) as file:
            segment = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError):
        return None
    return segment if segment[:8] == token.to_bytes(8, "little") else None
