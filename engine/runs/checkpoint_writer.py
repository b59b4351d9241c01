"""Writes checkpoints in a thread while training goes on."""

import threading
from collections.abc import Callable


class CheckpointWriter:
    """A background thread that does one write at a time.

    The next call of any method raises the error of a failed write, once. On leaving a `with` block, also by
    an exception, the writer waits for the running write. After KeyboardInterrupt nothing waits for the
    thread: a write that is cut short leaves the previous checkpoint intact.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the running write, unless the user interrupted the program."""
        if kind is None or issubclass(kind, Exception):
            self.finish()

    def start(self, write: Callable[..., None], *arguments: object) -> None:
        """Wait for the running write, then call `write` with the arguments in a thread."""
        self.finish()
        work = (write, *arguments)
        self._thread = threading.Thread(target=self._run, args=work, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a failed write, if any."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Wait for the running write, and raise its error, if any."""
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self.check()

    def _run(self, write: Callable[..., None], *arguments: object) -> None:
        try:
            write(*arguments)
        except Exception as error:
            self._error = error
