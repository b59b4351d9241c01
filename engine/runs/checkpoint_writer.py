"""Checkpoints written in a thread, from a copy, while training goes on."""

import threading
from collections.abc import Callable


class CheckpointWriter:
    """Do one write at a time in the background.

    What a write raises is raised by the next call of any method here, once. Leaving a `with` block finishes
    the write at hand, also after an exception. After KeyboardInterrupt nothing waits for the thread: a write
    that is cut short leaves the checkpoint before it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the write at hand, unless the user wants to leave at once."""
        if kind is None or issubclass(kind, Exception):
            self.finish()

    def start(self, write: Callable[..., None], *arguments: object) -> None:
        """Wait for the write before, and call `write` with the arguments in a thread."""
        self.finish()
        work = (write, *arguments)
        self._thread = threading.Thread(target=self._run, args=work, name="checkpoint", daemon=True)
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

    def _run(self, write: Callable[..., None], *arguments: object) -> None:
        try:
            write(*arguments)
        except Exception as error:
            self._error = error
