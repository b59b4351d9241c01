"""Optimizers that update several parameters at once on the CPU.

Paddle's update of a parameter runs on one thread, which cannot read the memory as fast as several can. Each
parameter is updated as Paddle does, so the weights are the same, bit for bit.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import paddle
from paddle.optimizer import Adam, AdamW

Item = TypeVar("Item")


class UpdatesOnThreads:
    """Let an optimizer of Paddle's, which stands behind this class, share its parameters among threads."""

    _waiting: list[tuple] | None = None  # the updates of a step that is being collected

    def step(self) -> None:
        """Update all parameters once."""
        if _threads() == 1 or paddle.get_device() != "cpu":
            super().step()
            return
        self._waiting = []
        try:
            super().step()
            updates = sorted(self._waiting, key=lambda update: -update[1][0].size)
        finally:
            self._waiting = None
        for_each(lambda update: self._append_optimize_op(*update), updates)

    def _append_optimize_op(self, block: object, parameter_and_gradient: tuple) -> None:
        """Update a parameter, or keep the update for later; Paddle calls this for each parameter."""
        if self._waiting is None:
            super()._append_optimize_op(block, parameter_and_gradient)
        else:
            self._waiting.append((block, parameter_and_gradient))


class ThreadedAdam(UpdatesOnThreads, Adam):
    """Paddle's Adam."""


class ThreadedAdamW(UpdatesOnThreads, AdamW):
    """Paddle's AdamW."""


def for_each(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Call `work` on each of `items`, the first ones first, on as many threads as this process may have."""
    remaining = iter(items)  # shared: a thread that is free takes the next one

    def take() -> None:
        for item in remaining:
            work(item)

    others = [_pool(_threads()).submit(take) for _ in range(min(_threads(), len(items)) - 1)]
    take()
    for other in others:
        other.result()


def _threads() -> int:
    outermost = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return max(1, int(outermost)) if outermost.isdecimal() else 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="updates")
