"""Optimizers that update several parameters at once on the CPU.

Paddle's update of a parameter runs on one thread, which cannot read the memory as fast as several can. Each
parameter is updated as Paddle does, so the weights are the same, bit for bit.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import paddle
from paddle.optimizer import Adam, AdamW


class UpdatesOnThreads:
    """Let an optimizer of Paddle's, which stands behind this class, share its parameters among threads."""

    _waiting: list[tuple] | None = None  # the updates of a step that is being collected

    def step(self) -> None:
        """Update all parameters once."""
        threads = _threads()
        if threads == 1 or paddle.get_device() != "cpu":
            super().step()
            return
        self._waiting = []
        try:
            super().step()
            updates = sorted(self._waiting, key=lambda update: -update[1][0].size)
        finally:
            self._waiting = None
        remaining = iter(updates)  # shared: a thread that is free takes the next one, the largest first

        def take() -> None:
            for update in remaining:
                self._append_optimize_op(*update)

        others = [_pool(threads).submit(take) for _ in range(min(threads, len(updates)) - 1)]
        take()
        for other in others:
            other.result()

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


def _threads() -> int:
    outermost = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return max(1, int(outermost)) if outermost.isdecimal() else 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="updates")
