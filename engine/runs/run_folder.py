"""The folder of one run: its configuration, log, vocabulary and checkpoints."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

from config.errors import UserError
from config.files.whole import write_whole
from engine.runs.checkpoint import STATE_FILE, is_checkpoint
from engine.runs.run_status import STATUS_FILE


class RunFolder:
    """The folder `<OUTPUT.CHECKPOINT_DIR>/<OUTPUT.SAVE_NAME>/` and the paths in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.log_file = self.path / "log.jsonl"
        self.best = self.path / "best"
        self.last = self.path / "last"
        self._lock_file = self.path / ".lock"
        self._lock = None
        self._made: list[Path] = []  # by `open_for_training`, outermost first

    def open_for_training(self, resume: bool, overwrite: bool) -> None:
        """Create the folder, lock it against a second process, and check that no run is lost by accident.

        Raises UserError if another process trains in the folder, if it holds a run and neither `resume` nor
        `overwrite` is set, or if there is nothing to resume.
        """
        if resume and not self.has_last():
            raise UserError(
                f"nothing to resume in {self.path}: it has no last/ checkpoint; train without --resume"
            )
        try:
            self._make_and_lock()
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {self.path}; wait for it, or set another OUTPUT.SAVE_NAME"
            ) from error
        except OSError as error:
            self.abandon()
            raise UserError(
                f"cannot write to the run folder {self.path}: {error.strerror}; set OUTPUT.CHECKPOINT_DIR"
            ) from error
        if self.holds_checkpoint() and not resume and not overwrite:
            self.abandon()
            go_on = "--resume to go on with it, " if self.has_last() else ""
            raise UserError(
                f"{self.path} already holds a run; add {go_on}--overwrite to delete it and start again, or "
                f"set another OUTPUT.SAVE_NAME"
            )

    def _make_and_lock(self) -> None:
        needed = (*reversed(self.path.parents), self.path, self._lock_file)
        self._made = [path for path in needed if not os.path.exists(path)]
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self._lock_file, "a")  # noqa: SIM115 - held until the process ends
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def abandon(self) -> None:
        """Undo `open_for_training`: remove the lock, and the new folders that are still empty."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                path.unlink() if path == self._lock_file else path.rmdir()
        self._made = []
        if self._lock is not None:
            self._lock.close()

    def has_last(self) -> bool:
        """Tell whether there is a checkpoint to resume from."""
        return is_checkpoint(self.last)

    def holds_checkpoint(self) -> bool:
        """Tell whether there is any checkpoint, even a `best/` that was written before the first `last/`."""
        return any(self.path.glob(f"*/{STATE_FILE}"))

    def set_aside_damaged(self) -> None:
        """Rename a damaged `last/`, so that the next save does not move it over the whole `.last.old/`."""
        damaged = self.path / ".last.damaged"
        if self.last.exists():
            shutil.rmtree(damaged, ignore_errors=True)
            self.last.rename(damaged)

    def clear(self) -> None:
        """Delete the checkpoints, log, status and curves of an earlier run."""
        patterns = (".*.new", ".*.old", ".*.older", ".*.damaged")
        unfinished = [path for pattern in patterns for path in self.path.glob(pattern)]
        epochs = [folder for _, folder in self.kept_epochs()]
        for folder in (self.best, self.last, self.path / "curves", *epochs, *unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        drafts = [path for path in unfinished if path.is_file()]
        for file in (self.log_file, self.path / STATUS_FILE, *drafts):
            file.unlink(missing_ok=True)

    def kept_epochs(self) -> list[tuple[int, Path]]:
        """Return the epoch number and the folder of each `epoch_N/`, oldest first."""
        found = [(re.fullmatch(r"epoch_(\d+)", path.name), path) for path in self.path.glob("epoch_*")]
        return sorted((int(match.group(1)), path) for match, path in found if match)

    def prune_epochs(self, keep: int) -> None:
        """Delete all `epoch_N/` but the newest `keep`."""
        for _, folder in self.kept_epochs()[:-keep]:
            shutil.rmtree(folder)

    def trim_log(self, step: int, last_validation: int) -> None:
        """Drop steps after `step` and validations after `last_validation`, which a resume logs again."""
        if not self.log_file.is_file():
            return
        kept = [
            record
            for record in read_log(self.log_file)
            if record["step"] <= (last_validation if record["event"] == "validation" else step)
        ]
        write_whole(self.log_file, "".join(json.dumps(record) + "\n" for record in kept))


def read_log(path: str | Path) -> list[dict]:
    """Return the records of a `log.jsonl`, each with `event`, `step` and `time`; empty without the file.

    A line that a crash cut short, and any other that training did not write, is left out.
    """
    if not os.path.isfile(path):
        return []
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if _is_record(record):
                records.append(record)
    return records


def _is_record(record: object) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("event"), str)
        and type(record.get("step")) is int
        and type(record.get("time")) in (int, float)
        and all(
            value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 1e300)
            for value in record.values()
        )
    )
