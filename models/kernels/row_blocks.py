"""Work on the rows of large arrays in blocks that fit the cache, shared among threads.

Each operation of NumPy, as each of Paddle on the CPU, is one pass over the memory on one thread. Passes over
a block that stays in the cache are cheap, and NumPy releases the interpreter lock during each.
"""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor

from config.machine.threads import for_each, num_threads

_BLOCK_BYTES = 1 << 20  # a block and its results take about the second-level cache of a core


def array_of(tensor: Tensor) -> np.ndarray:
    """Return a read-only array that shares the memory of a tensor on the CPU."""
    array = np.from_dlpack(tensor.detach())
    array.flags.writeable = False  # NumPy 1 sees to that itself, NumPy 2 does not
    return array


def row_blocks(count: int, row_bytes: int, multiple: int = 1) -> list[slice]:
    """Return blocks of `count` rows of `row_bytes` each; large rows give every thread equally many.

    Each block but the last has a `multiple` of rows.
    """
    threads = num_threads()
    blocks = max(1, -(-count * row_bytes // _BLOCK_BYTES))
    if blocks > 1 or count * row_bytes * threads > _BLOCK_BYTES:
        blocks = -(-blocks // threads) * threads
    return _cut(count, min(blocks, max(1, count // multiple)), multiple)


def for_each_block(work: Callable[[slice], None], count: int, row_bytes: int) -> None:
    """Call `work` on each of `row_blocks(count, row_bytes)`, on all threads."""
    for_each(work, row_blocks(count, row_bytes))


def equal_parts(count: int) -> list[slice]:
    """Return `count` items cut into one part for each thread, but into no more parts than items."""
    return _cut(count, max(1, min(num_threads(), count)))


def _cut(count: int, parts: int, multiple: int = 1) -> list[slice]:
    edges = [count * number // parts // multiple * multiple for number in range(parts)] + [count]
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:], strict=True)]


def uses_cpu_kernels(tensor: Tensor) -> bool:
    """Tell whether the NumPy kernels take `tensor`: it is on the CPU, and no static graph is being traced."""
    return paddle.in_dynamic_mode() and tensor.place.is_cpu_place()
