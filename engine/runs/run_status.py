"""A run's sign of life: `status.json` in its folder, one line that is rewritten whole while it trains."""

import contextlib
import json
import os
import socket
import time
from datetime import datetime, timezone
from pathlib import Path

STATUS_FILE = "status.json"
SECONDS_BETWEEN = 5.0
SILENT_SECONDS = 600.0
"""A run that says it is running and gave no sign of life for so long is silent."""


class RunStatus:
    """What `status.json` says of the run of this process.

    A full disk does not stop training here: the file is then out of date.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._values: dict[str, object] = {}

    def start(self, step: int, steps: int, best_score: float | None) -> None:
        """Say that the run is at `step` of `steps`."""
        self._values = {
            "state": "running",
            "step": step,
            "steps": steps,
            "epoch": None,
            "samples_per_second": None,
            "seconds_left": None,
            "best_score": best_score,
        }
        self._write()

    def advance(self) -> None:
        """Count a step."""
        self._values["step"] += 1
        self.heartbeat()

    def set(self, values: dict[str, object]) -> None:
        """Take values that the next writing tells."""
        self._values |= values

    def heartbeat(self) -> None:
        """Give a sign of life, if the last is some seconds old."""
        if self._values and time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write()

    def end(self, state: str) -> None:
        """Say that the run is finished, stopped or failed; nothing of a run that has not begun."""
        if self._values:
            self._values |= {"state": state, "seconds_left": None}
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        updated = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sender = {"updated": updated, "pid": os.getpid(), "host": socket.gethostname()}
        draft = self._path.with_name(f".{self._path.name}.new")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps({**self._values, **sender}) + "\n", encoding="utf-8")
            os.replace(draft, self._path)


def read_status(folder: Path, now: datetime) -> dict:
    """Return what a run's `status.json` says at the time `now`; `seconds_ago` is its age.

    The state of a run that says it is running is `died` where its process is gone from this machine, and
    `silent` where it gave no sign of life for ten minutes. Without a readable file the state is all there is:
    `unknown`.
    """
    try:
        status = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        age = (now - datetime.fromisoformat(status["updated"])).total_seconds()
        state, host, pid = status["state"], status["host"], int(status["pid"])
    except (OSError, ValueError, TypeError, KeyError):
        return {"state": "unknown"}
    if state == "running":
        if host == socket.gethostname() and not _is_alive(pid):
            state = "died"
        elif age > SILENT_SECONDS:
            state = "silent"
    return {**status, "state": state, "seconds_ago": round(age, 1)}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
