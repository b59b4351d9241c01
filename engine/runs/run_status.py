"""The heartbeat of a run: `status.json` in its folder, which is rewritten every few seconds of training."""

import contextlib
import json
import os
import socket
import time
from datetime import datetime, timezone
from pathlib import Path

from config.files.whole import replacing

STATUS_FILE = "status.json"
SHEET_FILE = "conversion.json"  # what became of each tensor of a run that was converted
SECONDS_BETWEEN = 5.0
SILENT_SECONDS = 600.0
"""A run whose state is `running` but whose last heartbeat is older than this is `silent`."""


class RunStatus:
    """The writer of `status.json` for the run of this process.

    A full disk does not stop training: the file is then out of date.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._values: dict[str, object] = {}

    def start(self, step: int, steps: int, best_score: float | None) -> None:
        """Write that the run is running, at `step` of `steps`."""
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
        """Set values that the next write includes."""
        self._values |= values

    def heartbeat(self) -> None:
        """Write the file, if the last write is `SECONDS_BETWEEN` ago."""
        if self._values and time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write()

    def end(self, state: str) -> None:
        """Write that the run is finished, stopped or failed; write nothing if it never started."""
        if self._values:
            self._values |= {"state": state, "seconds_left": None}
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        updated = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sender = {"updated": updated, "pid": os.getpid(), "host": socket.gethostname()}
        # Not flushed: training does not wait for the disk.
        with contextlib.suppress(OSError), replacing(self._path, flush=False) as draft:
            draft.write_text(json.dumps({**self._values, **sender}) + "\n", encoding="utf-8")


def read_status(folder: Path, now: datetime) -> dict:
    """Return the values of a run's `status.json`, and under `seconds_ago` its age at the time `now`.

    The state `running` becomes `died` if the run's process is gone from this machine, and `silent` if the
    last heartbeat is ten minutes old. Without a readable file, the only value is the state: `converted`
    beside the sheet of a conversion, else `unknown`.
    """
    try:
        status = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        age = (now - datetime.fromisoformat(status["updated"])).total_seconds()
        state, host, pid = status["state"], status["host"], status["pid"]
        if not _is_status(status):
            raise ValueError("of another form")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return {"state": "converted" if (folder / SHEET_FILE).is_file() else "unknown"}
    if state == "running":
        if host == socket.gethostname() and not _is_alive(pid):
            state = "died"
        elif age > SILENT_SECONDS:
            state = "silent"
    return {**status, "state": state, "seconds_ago": round(age, 1)}


def _is_status(status: dict) -> bool:
    """Return whether what a status holds is of the types that `RunStatus` writes."""
    score = status.get("best_score")
    return (
        all(isinstance(status.get(name), str) for name in ("state", "host"))
        and all(type(status.get(name)) is int for name in ("step", "steps", "pid"))
        and 0 < status["pid"] < 1 << 31
        and (score is None or type(score) in (int, float) and abs(score) < 1e6)
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
