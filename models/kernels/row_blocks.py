"""Work on the rows of large arrays in blocks that fit the cache, shared among threads.

NumPy works on one thread and passes over the memory once an operation, as Paddle does on the CPU. Over a
block that stays in the cache the passes are cheap, and NumPy releases the interpreter while it works.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import paddle
from paddle import Tensor

Item = TypeVar("Item")

_BLOCK_BYTES = 1 << 20  # with what is made of them, about the second-level cache of a core


def array_of(tensor: Tensor) -> np.ndarray:
    """Return the own memory of a tensor on the CPU as an array, which cannot be written to."""
    array = np.from_dlpack(tensor.detach())
    array.flags.writeable = False  # NumPy 1 sees to that itself, NumPy 2 does not
    return array


def row_blocks(count: int, row_bytes: int) -> list[slice]:
    """Cut `count` rows of that size into blocks, equally many for every thread where the rows suffice."""
    threads = _threads()
    blocks = max(1, -(-count * row_bytes // _BLOCK_BYTES))
    if blocks > 1 or count * row_bytes * threads > _BLOCK_BYTES:
        blocks = -(-blocks // threads) * threads
    return _cut(count, min(blocks, max(1, count)))


def for_each_block(work: Callable[[slice], None], count: int, row_bytes: int) -> None:
    """Call `work` on every block of `count` rows of that size, on all threads."""
    for_each(work, row_blocks(count, row_bytes))


def equal_parts(count: int) -> list[slice]:
    """Cut `count` into as many parts as there are threads, or fewer where it is smaller."""
    return _cut(count, max(1, min(_threads(), count)))


def for_each(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call `work` on each of `items`, on this thread and on those of a pool."""
    left = iter(items)  # shared: whoever is free takes the next one

    def take() -> None:
        for item in left:
            work(item)

    helpers = min(_threads(), len(items)) - 1
    others = [_pool(_threads()).submit(take) for _ in range(helpers)]
    take()
    for other in others:
        other.result()


def _cut(count: int, parts: int) -> list[slice]:
    edges = [count * number // parts for number in range(parts + 1)]
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]


def _threads() -> int:
    """Return the threads that this process was given before Paddle was imported."""
    outermost = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return max(1, int(outermost)) if outermost.isdecimal() else 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="blocks")


def on_cpu(tensor: Tensor) -> bool:
    """Tell whether `tensor` is computed on the CPU now, where our recurrent layers are the faster ones."""
    return paddle.in_dynamic_mode() and tensor.place.is_cpu_place()
