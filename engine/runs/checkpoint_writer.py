"""Checkpoints written in a thread, from a copy, while training goes on."""

import threading
from collections.abc import Callable


class CheckpointWriter:
    """Do one write at a time in the background.

    What a write raises is raised by the next call of any method here, once. The thread holds up nobody who
    leaves without `finish`: a write that is cut short leaves the checkpoint before it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Wait for the write before, and call `write` in a thread."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what a write has raised."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Wait until the write at hand is done."""
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self.check()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            self._error = error
