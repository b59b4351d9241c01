"""Processes that begin with Paddle imported: a server imports it once (tests/prepared.py) and forks them.

The import takes over a second of a core, ten times what a small command does after it. Such a process can be
killed, stopped and limited like any other. Starting up is tested in fresh processes.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]


class Fork:
    """A running process, with what `subprocess.Popen` offers to whoever watches or ends it.

    words: what would follow `python` on a command line: a script or `-m` and a module, and arguments.
    """

    def __init__(self, words: Sequence[object], cwd: Path, out: str | Path, errors: str | Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.prepared", __name__])
        with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"):
            forkserver.ensure_running()
        self._process = context.Process(target=_run, args=([str(word) for word in words], cwd, out, errors))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; raise TimeoutExpired where it does not come."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def run_forked(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run to the end what would follow `python` on a command line, and return what it printed as text."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as errors:
        process = Fork(words, cwd, out.name, errors.name)
        try:
            code = process.wait(300)
        except BaseException:  # Ctrl-C, too, does not reach a group of its own
            process.send_signal(signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(words, code, out.read(), errors.read())


def _run(words: list[str], cwd: Path, out: str | Path, errors: str | Path) -> None:
    """Become the process of a command: in a group of its own, in a folder, with files for what is printed."""
    assert "tests.prepared" in sys.modules
    os.setpgrp()
    os.chdir(cwd)
    for number, path in ((1, out), (2, errors)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
