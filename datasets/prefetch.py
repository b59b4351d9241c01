"""Prefetching: threads make batches ahead of the training step that needs them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Batch = TypeVar("Batch")

_AHEAD = 2  # prefetched batches per thread: bounds the memory


def prefetched(
    make_batch: Callable[[Item], Batch], batches: Sequence[Item], num_workers: int = 0, start: int = 0
) -> Iterator[Batch]:
    """Yield `make_batch(item)` for each item of `batches[start:]`, in order.

    `num_workers` threads prefetch batches; with 0, each batch is made when it is asked for. Threads suffice,
    and share the data set, because reading and converting features releases the interpreter lock. An
    exception in `make_batch` is raised when its batch is due. Closing the iterator ends the threads.
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
