"""Batches made ahead of the training step by threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Batch = TypeVar("Batch")

_AHEAD = 2  # batches per thread that are made or wait: bounds the memory


def prefetched(
    make_batch: Callable[[Item], Batch], batches: Sequence[Item], num_workers: int = 0, start: int = 0
) -> Iterator[Batch]:
    """Yield `make_batch(item)` for each item of `batches[start:]`, in order.

    num_workers: threads that work ahead; 0 makes each batch when it is asked for. Threads suffice, and share
    the data set: reading and converting features release the interpreter. An exception in make_batch is
    raised here when its batch's turn comes; closing the iterator ends the threads.
    """
    items = islice(batches, start, None)
    if num_workers == 0:
        yield from map(make_batch, items)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="loader")
    try:
        waiting = deque(pool.submit(make_batch, item) for item in islice(items, _AHEAD * num_workers))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make_batch, item) for item in islice(items, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
