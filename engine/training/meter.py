"""Measures training: the mean of each loss, samples per second, and the remaining time."""

import contextlib
import time
from collections.abc import Iterator

from engine.training.outcomes import is_broken


class Meter:
    """The losses and samples of the steps of one call of `Trainer.fit`."""

    def __init__(self) -> None:
        self._began, self._steps = time.perf_counter(), 0
        self._restart()

    def add(self, losses: dict[str, float], samples: int) -> None:
        """Count a step on `samples` samples; the means leave out a step whose loss is NaN or infinite."""
        self._steps += 1
        self._samples += samples
        if not is_broken(sum(losses.values())):
            self._losses.append(losses)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the `with` block out of the samples per second."""
        started = time.perf_counter()
        yield
        self._clock += time.perf_counter() - started

    def read(self) -> tuple[dict[str, float], float]:
        """Return the mean of each loss, and the samples per second, since the last reading.

        If every loss since then was NaN or infinite, the means are empty and the counts are kept.
        """
        if not self._losses:
            return {}, 0.0
        sums = {name: sum(losses[name] for losses in self._losses) for name in self._losses[0]}
        means = {name: total / len(self._losses) for name, total in sums.items()}
        speed = self._samples / (time.perf_counter() - self._clock)
        self._restart()
        return means, speed

    def seconds_left(self, steps: int) -> float:
        """Return the time for `steps` more steps at the mean pace so far, including validation and saving."""
        return steps * (time.perf_counter() - self._began) / self._steps

    def _restart(self) -> None:
        self._clock, self._samples = time.perf_counter(), 0
        self._losses: list[dict[str, float]] = []
