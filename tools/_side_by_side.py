"""Run commands in parallel, and show their output as if they ran one after the other."""

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
    """A title, and the words of a command line behind `python`."""

    title: str
    words: tuple[str, ...]

    def heading(self) -> str:
        """Return the lines to print above the output of the command."""
        return f"\n--- {self.title}\n$ python {shlex.join(self.words)}\n"


class Running:
    """A started step; a temporary file keeps its output until that is shown."""

    def __init__(self, step: Step, folder: Path, environment: Mapping[str, str]) -> None:
        self.heading = step.heading()
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
        """Print the heading, on the first call, and the output since the last call."""
        sys.stdout.write(self.heading)
        sys.stdout.flush()
        self.heading = ""
        # pread leaves alone the file's position, where the step writes next.
        while output := os.pread(self._output.fileno(), BYTES_AT_ONCE, self._shown):
            sys.stdout.buffer.write(output)
            self._shown += len(output)
        sys.stdout.flush()

    def terminate(self) -> None:
        """Send SIGTERM, unless the step has ended."""
        self._process.terminate()

    def close(self) -> None:
        """Wait for the end of the step, and delete its output."""
        self._process.wait()
        self._output.close()


def run_side_by_side(steps: Iterable[Step], lanes: int, folder: Path, environment: Mapping[str, str]) -> int:
    """Run `steps`, at most `lanes` at a time, in `folder`; return 0, or the exit code of a step that failed.

    Steps start in their order and are shown in that order: the output of the first unfinished step is shown
    while it runs, the output of later steps after it. A step that fails is shown at once, and all others are
    terminated, as they are after an exception.
    """
    waiting, running = deque(steps), deque[Running]()
    try:
        while waiting or running:
            while waiting and sum(one.exit_code() is None for one in running) < lanes:
                running.append(Running(waiting.popleft(), folder, environment))
            shown = next((one for one in running if one.exit_code()), running[0])
            code = shown.exit_code()  # asked before the output is read: an ended step writes no more
            shown.show()
            if code:
                return code
            if code is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                running.popleft().close()
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.close()
    return 0
