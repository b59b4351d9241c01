"""How far a long evaluation is: a bar on a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 30.0

Show = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress_display() -> Iterator[Show]:
    """Yield what shows a stage, what is done of it and its size, with the speed and the time that is left."""
    if not sys.stderr.isatty():
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
                stage_shown = stage
            bar.n = done
            bar.refresh()

        yield show


class ProgressLines:
    """Print a line on a stage that takes long, every half minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stage, self._start, self._last = "", 0.0, 0.0

    def show(self, stage: str, done: int, total: int) -> None:
        """Take a stage, what is done of it and its size."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._start, self._last = stage, now, now
        if now - self._last < SECONDS_BETWEEN_LINES or done >= total:
            return
        from engine.runs.run_log import duration

        self._last = now
        speed = done / (now - self._start)
        left = duration((total - done) / speed) if done else "unknown"
        print(f"{stage}: {done:,} of {total:,}, {speed:,.0f}/s, left {left}", flush=True)
