"""The threads among which one process shares its work.

NumPy, MKL and oneDNN release the interpreter lock while they work, so threads of Python keep all cores busy.
Work is shared some thousand times a second: it is handed over by a queue, which takes half as long as the
futures of an executor, and nobody waits for a thread that comes when the work is done.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")

_of_thread = threading.local()


def num_threads() -> int:
    """Return the number of threads that this process was given before Paddle was imported."""
    outermost = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return max(1, int(outermost)) if outermost.isdecimal() else 1


def for_each(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Call `work` on each of `items`, the first ones first, on the calling thread and on helpers.

    All threads are done when it returns, or raises what `work` raised. An item may share work of its own.
    """
    helpers = min(num_threads(), len(items)) - 1
    shared = _Shared(work, items)
    for _ in range(helpers):
        _queue(num_threads()).put(shared)
    try:
        shared.take()
    finally:
        errors = shared.close()
    if errors:
        raise errors[0]


def is_helper() -> bool:
    """Tell whether the calling thread does nothing but items of `for_each`."""
    return getattr(_of_thread, "is_helper", False)


class _Shared:
    """Items, of which each thread that is free takes the next one."""

    def __init__(self, work: Callable, items: Sequence) -> None:
        self._work, self._remaining = work, iter(items)
        self._lock, self._ended = threading.Lock(), SimpleQueue()
        self._is_open, self._helpers = True, 0

    def take(self) -> None:
        """Take items until none is left; after one that fails, none is."""
        try:
            for item in self._remaining:
                self._work(item)
        except BaseException:
            for _ in self._remaining:
                pass
            raise

    def help(self) -> None:
        """Take items on a helper, unless they are all taken."""
        with self._lock:
            if not self._is_open:
                return
            self._helpers += 1
        try:
            self.take()
        except BaseException as error:  # the calling thread raises it
            self._ended.put(error)
        else:
            self._ended.put(None)

    def close(self) -> list[BaseException]:
        """Wait for the helpers that have begun, let no other begin, and return what they raised.

        A helper may keep this object for longer, but not the work: what that holds is freed by the calling
        thread. A tensor whose memory is NumPy's is freed under a lock of Paddle's, and the gradients that the
        calling thread goes on with free others under that lock while they wait for the interpreter: if a
        helper freed one then, both would wait for ever.
        """
        with self._lock:
            self._is_open = False
        ended = [self._ended.get() for _ in range(self._helpers)]
        del self._work, self._remaining
        return [error for error in ended if error is not None]


@functools.cache
def _queue(threads: int) -> "SimpleQueue[_Shared]":
    """Return the queue of as many helpers."""
    queue: SimpleQueue[_Shared] = SimpleQueue()
    for number in range(threads):
        threading.Thread(target=_help, args=(queue,), name=f"helper_{number}", daemon=True).start()
    return queue


def _help(queue: "SimpleQueue[_Shared]") -> None:
    _of_thread.is_helper = True
    while True:
        shared = queue.get()
        shared.help()
        del shared  # what it holds may be large, and the next may be far off
