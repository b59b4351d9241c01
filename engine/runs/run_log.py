"""The log of a run: lines on the terminal, `log.jsonl`, `status.json` and VisualDL curves."""

import contextlib
import json
import re
import sys
import time
from pathlib import Path

from tqdm import tqdm

from config.errors import UserError
from config.progress import duration
from engine.runs.run_status import STATUS_FILE, RunStatus
from engine.runs.visualdl_curves import VisualDLCurves


class RunLog:
    """The log of one run: steps, validations and other events.

    A terminal shows a progress bar; other outputs get a plain line for each logged step. `enabled` is set in
    the main process of a job alone; the others write nothing.
    """

    def __init__(self, log_file: Path, curves: Path | None, enabled: bool):
        self.enabled = enabled
        self._curves_folder = curves
        self._curves = None
        self._log_file = log_file
        self._file = None
        self._bar = None
        self._status = RunStatus(log_file.with_name(STATUS_FILE)) if enabled else None

    def start(self, total_steps: int, done: int, best_score: float | None) -> None:
        """Start the status, and on a terminal the progress bar, at step `done` of `total_steps`."""
        if self._status is not None:
            self._status.start(done, total_steps, best_score)
        if self.enabled and sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=done, unit="step", dynamic_ncols=True, smoothing=0.1)

    def advance(self) -> None:
        """Count a step in the status and on the progress bar."""
        if self._status is not None:
            self._status.advance()
        if self._bar is not None:
            self._bar.update(1)

    def heartbeat(self) -> None:
        """Update the time in `status.json` during long work."""
        if self._status is not None:
            self._status.heartbeat()

    def step(self, record: dict, seconds_left: float) -> None:
        """Log one training step: step, epoch, loss and its terms, lr and samples per second."""
        self._write({"event": "train", **record}, curves="train")
        if not self.enabled:
            return
        speed = {name: round(record[name], 3) for name in ("epoch", "samples_per_second")}
        self._status.set({**speed, "seconds_left": round(seconds_left, 1)})
        line = (
            f"loss {record['loss']:.4g}  lr {record['lr']:.3g}  {record['samples_per_second']:.0f} samples/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        else:
            print(
                f"epoch {record['epoch']:.2f}  step {record['step']}  {line}  left {duration(seconds_left)}",
                flush=True,
            )

    def validation(self, record: dict, line: str, best_score: float) -> None:
        """Log one validation and print its line."""
        self._write({"event": "validation", **record}, curves="validation")
        if self._status is not None:
            self._status.set({"best_score": best_score})
            self._status.heartbeat()
        self.print_line(line)

    def print_line(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self.enabled:
            tqdm.write(line, file=sys.stdout) if self._bar is not None else print(line, flush=True)

    def event(self, event: str, step: int, line: str) -> None:
        """Print a line, and add it to the log as an event of its own."""
        self.log_event(event, step, line)
        self.print_line(line)

    def log_event(self, event: str, step: int, line: str) -> None:
        """Add a line to the log as an event of its own."""
        self._write({"event": event, "step": step, "message": line})

    def close(self, state: str) -> None:
        """Close all files, and write how the run ended: finished, stopped or failed.

        Errors of the disk are ignored here: writing a line has reported them.
        """
        if self._status is not None:
            self._status.end(state)
        if self._bar is not None:
            self._bar.close()
        for file in (self._curves, self._file):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _write(self, record: dict, curves: str = "") -> None:
        """Add a record to the log, and its numbers to the curves of the group `curves`, if named."""
        if not self.enabled:
            return
        try:
            if self._file is None:
                self._file = open(self._log_file, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
            self._file.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")
            self._file.flush()
            if curves and self._curves_folder is not None:
                self._curves = self._curves or VisualDLCurves(self._curves_folder)
                numbers = {name: value for name, value in record.items() if isinstance(value, float)}
                self._curves.add(
                    {f"{curves}/{name}": value for name, value in numbers.items()}, record["step"]
                )
        except OSError as error:
            raise UserError(
                f"cannot write the log in {self._log_file.parent}: {error.strerror}; free some space, then "
                f"go on with --resume"
            ) from error


def validation_line(step: int, metrics: dict[str, float], best: tuple[float, int] | None) -> str:
    """Return the terminal's line for one validation.

    `best` is the best score and its step if an earlier validation was better, otherwise None. The line shows
    every recall in `metrics` (`i2t_rK`, `t2i_rK`; `rK` of image retrieval), and their sum or MAP@R.
    """
    ks, found = [], []
    for direction, key in (("image-to-text ", "i2t_r"), ("text-to-image ", "t2i_r"), ("", "r")):
        recalls = {name: value for name, value in metrics.items() if re.fullmatch(rf"{key}\d+", name)}
        if recalls:
            ks = [name.removeprefix(key) for name in recalls]
            found.append(direction + "/".join(f"{value:.1f}" for value in recalls.values()))
    whole = f"MAP@R {metrics['map_at_r']:.1f}" if "map_at_r" in metrics else f"rsum {metrics['rsum']:.1f}"
    verdict = f"best {best[0]:.1f} at step {best[1]}" if best else "best"
    return f"validation at step {step}: R@{'/'.join(ks)} {'  '.join(found)}  {whole}  ({verdict})"
