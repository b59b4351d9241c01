"""Threads that stand for the processes of a job: what processes exchange, they exchange by memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MODULES = (
    "engine.parallel.processes",
    "engine.parallel.shared_rows",
    "engine.ranking.ranks",
    "engine.evaluation.dual",
    "engine.evaluation.image",
)


class ThreadJob:
    """A job of `count` threads, known to all code that shares work; the calling thread is not one of them."""

    def __init__(self, count: int, monkeypatch) -> None:
        self.count, self._own = count, threading.local()
        self._barrier, self._slots = threading.Barrier(count, timeout=60), [None] * count
        replaced = {
            "process_number": lambda: getattr(self._own, "number", 0),
            "world_size": lambda: self.count if hasattr(self._own, "number") else 1,
            "is_main": lambda: getattr(self._own, "number", 0) == 0,
            "all_reduce": lambda values, how: getattr(np, how)(self._exchange(values), axis=0),
            "broadcast_values": lambda values: self._exchange(values)[0],
            "gather_array": lambda values: np.concatenate(self._exchange(values)),
            "gather_bytes": self._exchange,
        }
        for module in MODULES:
            for name, function in replaced.items():
                monkeypatch.setattr(f"{module}.{name}", function, raising=False)

    def run(self, work: Callable[[int], object]) -> list:
        """Return what `work` returns in each thread, which it is called with the number of."""

        def work_as(number: int) -> object:
            self._own.number = number
            return work(number)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(work_as, range(self.count)))

    def _exchange(self, value: object) -> list:
        if not hasattr(self._own, "number"):
            return [value]
        self._slots[self._own.number] = value
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found
