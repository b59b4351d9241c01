"""Run commands at the same time, and show what they print as if they ran one after the other."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.05
BYTES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Step:
    """A title, the words of a Python command line without its `python`, and the steps to end before it."""

    title: str
    words: tuple[str, ...]
    needs: tuple["Step", ...] = ()

    def heading(self) -> str:
        """Return the lines to print above what the command says."""
        return f"\n--- {self.title}\n$ python {shlex.join(self.words)}\n"


class Running:
    """A started step, whose output is kept in a file until it is shown."""

    def __init__(self, step: Step, folder: Path, environment: Mapping[str, str]) -> None:
        self.step, self._heading = step, step.heading()
        self._output, self._shown = tempfile.TemporaryFile(), 0  # noqa: SIM115 (`close` closes it)
        self._process = subprocess.Popen(
            [sys.executable, *step.words],
            cwd=folder,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def exit_code(self) -> int | None:
        """Return the exit code, or None while the step runs."""
        return self._process.poll()

    def show(self) -> None:
        """Print the heading, the first time, and what the step has written since the last time."""
        sys.stdout.write(self._heading)
        sys.stdout.flush()
        self._heading = ""
        # pread: the file's own position is where the step writes next.
        while output := os.pread(self._output.fileno(), BYTES_AT_ONCE, self._shown):
            sys.stdout.buffer.write(output)
            self._shown += len(output)
        sys.stdout.flush()

    def terminate(self) -> None:
        """Send SIGTERM, unless the step has ended."""
        self._process.terminate()

    def close(self) -> None:
        """Wait for the end, and forget the output."""
        self._process.wait()
        self._output.close()


def run_side_by_side(steps: Iterable[Step], lanes: int, folder: Path, environment: Mapping[str, str]) -> int:
    """Run `steps`, at most `lanes` at a time, in `folder`; return 0, or the exit code of one that failed.

    The next to start is the first whose needs have all ended. Steps are shown in the order of their starts:
    the first that has not ended while it runs, those behind it when their turn comes. A failed step is shown
    next, and ends all others, as an exception does. Raises ValueError where no step can start.
    """
    waiting, running, ended = list(steps), deque[Running](), set[Step]()
    try:
        while waiting or running:
            ended.update(one.step for one in running if one.exit_code() == 0)
            ready = [step for step in waiting if ended.issuperset(step.needs)]
            for step in ready[: lanes - sum(one.exit_code() is None for one in running)]:
                waiting.remove(step)
                running.append(Running(step, folder, environment))
            if not running:
                raise ValueError(f"expected steps whose needs can end before them, got {waiting}")
            shown = next((one for one in running if one.exit_code()), running[0])
            code = shown.exit_code()  # before its output is read: nothing comes behind
            shown.show()
            if code:
                return code
            if code is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                ended.add(shown.step)
                running.popleft().close()
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.close()
    return 0
