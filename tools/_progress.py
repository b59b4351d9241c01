"""Show the progress of long work: a bar on a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from config.progress import ShowProgress, duration

SECONDS_BETWEEN_LINES = 30.0


@contextlib.contextmanager
def progress_display() -> Iterator[ShowProgress]:
    """Yield a callback that shows a stage, the number of items done and their total, speed and time left."""
    if not sys.stderr.isatty() or find_spec("tqdm") is None:  # serving does without
        yield ProgressLines(time.monotonic).show
        return
    from tqdm import tqdm

    with tqdm(unit="", leave=False, dynamic_ncols=True) as bar:
        stage_shown = ""

        def show(stage: str, done: int, total: int) -> None:
            nonlocal stage_shown
            if stage != stage_shown:
                bar.reset(total)
                bar.set_description(stage, refresh=False)
                bar.n = bar.initial = done  # the speed of a resumed stage leaves out what was done before
                stage_shown = stage
                bar.refresh()
            bar.update(done - bar.n)
            if done >= total:
                bar.refresh()

        yield show


class ProgressLines:
    """Print a line about a stage every half minute, and none for a stage that takes less."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stage, self._start, self._first, self._last = "", 0.0, 0, 0.0

    def show(self, stage: str, done: int, total: int) -> None:
        """Print `done` of `total` items of a stage, if half a minute has passed since the last line."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._start, self._first, self._last = stage, now, done, now
        if now - self._last < SECONDS_BETWEEN_LINES or done >= total:
            return
        self._last = now
        speed = (done - self._first) / (now - self._start)
        left = duration((total - done) / speed) if speed else "unknown"
        print(f"{stage}: {done:,} of {total:,}, {speed:,.0f}/s, left {left}", flush=True)
