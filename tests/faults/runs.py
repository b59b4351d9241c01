"""Small runs of the real command line, and undisturbed ones to compare them with."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from tests.forks import Fork

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tools" / "train_retrieval.py"
STEPS = 60  # of a run; an epoch has 6
PATIENCE = 300.0  # seconds
JOB_LIMIT = 60.0  # seconds in which a job ends, one of whose processes has died


class LostError(Exception):
    """A run did not survive what happened to it."""


def expect(holds: bool, what: str) -> None:
    """Raise LostError that says `what` was expected."""
    if not holds:
        raise LostError(what)


class Bench:
    """Where faults happen: a data set, and the runs that they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.runs: list[Run] = []
        maker = [sys.executable, ROOT / "tools" / "make_scenes.py", "--out", self.data]
        subprocess.run(
            [*maker, "--train", "60", "--dev", "20", "--test", "20"], check=True, capture_output=True
        )

    @cached_property
    def undisturbed(self) -> "Run":
        """Return a run that nothing happened to."""
        return self._finished("undisturbed", 1)

    @cached_property
    def undisturbed_pair(self) -> "Run":
        """Return the same of two processes."""
        return self._finished("undisturbed_pair", 2)

    @cached_property
    def killed(self) -> "Run":
        """Return a run that was killed in the midst of an epoch, with a checkpoint of step 20 or later."""
        run = self.run_in(self.folder / "killed")
        run.start()
        run.wait_until(lambda: run.saved_step() >= 20, "a checkpoint of step 20")
        run.end_by(signal.SIGKILL)
        return run

    def _finished(self, name: str, processes: int) -> "Run":
        run = self.run_in(self.folder / name, processes)
        run.start()
        code, _, errors = run.end()
        if code != 0:
            raise RuntimeError(f"an undisturbed run ended with {code}: {errors}")
        return run

    def new_run(self, name: str, processes: int = 1) -> "Run":
        """Return a run that has not begun, in a new folder."""
        return self.run_in(self._new_folder(name), processes)

    def run_in(self, folder: Path, processes: int = 1) -> "Run":
        """Return the run of a folder."""
        self.runs.append(Run(folder, self.data, processes))
        return self.runs[-1]

    def close(self) -> None:
        """End all processes."""
        for run in self.runs:
            run.close()

    def copy_of_killed(self, name: str) -> "Run":
        """Return a copy of the killed run."""
        folder = self._new_folder(name)
        shutil.copytree(self.killed.folder, folder, dirs_exist_ok=True)
        return self.run_in(folder)

    def _new_folder(self, name: str) -> Path:
        number = len(list(self.folder.glob(f"{name}_*")))
        folder = self.folder / f"{name}_{number}"
        folder.mkdir()
        return folder


class Run:
    """A run of the command line in `folder`/run."""

    def __init__(self, folder: Path, data: Path, processes: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.data, self.processes = folder, data, processes
        self.prints = folder
        self.path = folder / "run"
        self.last = self.path / "last"
        self.process: Fork | None = None

    def command(self, *options: str) -> list[str]:
        """Return the command line."""
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(self.processes)]
        launcher += ["--log_dir", str(self.folder / "logs")]
        keys = {
            "DATASET.DATA_DIR": self.data,
            "OUTPUT.CHECKPOINT_DIR": self.folder,
            "OUTPUT.SAVE_NAME": "run",
            "OUTPUT.SAVE_STEP": 2,
            "MODEL.EMBED_DIM": 128,
            "MODEL.WORD_DIM": 32,
            "MODEL.TEXT_DROPOUT": 0.2,
            "OPTIMIZATION.BATCH_SIZE": 50 // self.processes,
            "OPTIMIZATION.EPOCHS": 10,
            "MONITOR.PRINT_STEP": 1,
            "RUNTIME.DEVICE": "cpu",
            "RUNTIME.THREADS": 1,
        }
        words = [str(TRAIN), "--cfg_file", str(ROOT / "configs" / "scenes" / "vsepp.yaml"), *options]
        words += [f"{key}={value}" for key, value in keys.items()]
        return [sys.executable, *(launcher if self.processes > 1 else []), *words]

    def start(self, *options: str) -> None:
        """Start it, without waiting; what it prints goes to files."""
        words = self.command(*options)[1:]
        self.process = Fork(words, self.folder, self.prints / "out", self.prints / "errors")

    def end(self, limit: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for its end; return the exit code and what it printed."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise LostError(f"it ends within {limit:.0f} s") from error
        return code, (self.prints / "out").read_text(), (self.prints / "errors").read_text()

    def close(self) -> None:
        """End what is left of its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def end_by(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.end()

    def wait_until(self, happened: Callable[[], bool], what: str) -> None:
        """Return when something has happened; raise RuntimeError where the run ends before."""
        began = time.monotonic()
        while not happened():
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE:
                errors = (self.prints / "errors").read_text()
                raise RuntimeError(f"the run ended before {what}: {self.process.poll()} {errors}")
            time.sleep(0.001)

    def wait_for_step(self, step: int) -> None:
        """Return when a step is logged."""
        log = self.path / "log.jsonl"
        mark = f'"step": {step},'
        self.wait_until(lambda: log.is_file() and mark in log.read_text(), f"step {step}")

    def stop_in_mid_write(self, after_step: int) -> None:
        """Hold the process at a moment at which it writes a checkpoint."""
        self.wait_for_step(after_step)
        draft = self.path / ".last.new"
        while True:
            self.wait_until(draft.is_dir, "a checkpoint was written")
            self.process.send_signal(signal.SIGSTOP)
            while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)
            if draft.is_dir():
                return
            self.process.send_signal(signal.SIGCONT)

    def saved_step(self) -> int:
        """Return the step of the newest checkpoint, 0 where there is none."""
        for folder in (self.last, self.path / ".last.old"):
            with contextlib.suppress(FileNotFoundError):
                return json.loads((folder / "state.json").read_text())["progress"]["step"]
        return 0

    def resume(self, undisturbed: "Run", at_least: int) -> str:
        """Resume to the end, and compare with the undisturbed run, bit for bit; return what was printed.

        at_least: the step of a checkpoint that must not have been lost. Without any it starts again.
        """
        resumes = self.saved_step() > 0
        self.start(*(["--resume"] if resumes else []))
        code, printed, errors = self.end()
        expect(code == 0, f"a resume ends with 0, it ended with {code}: {errors.strip() or printed[-500:]}")
        found = re.search(r"^resuming .* at step (\d+)", printed, re.MULTILINE)
        step = int(found.group(1)) if found else 0
        expect(step >= at_least, f"it goes on from step {at_least} or later, not from {step}")
        self.compare(undisturbed)
        return printed

    def compare(self, undisturbed: "Run") -> None:
        """Expect the same weights, optimizer state and progress as those of another run, bit for bit."""
        for name in ("last", "best"):
            ours, theirs = self.path / name, undisturbed.path / name
            for file in ("model.safetensors", "trainer.safetensors", "vocab.json"):
                same = (ours / file).read_bytes() == (theirs / file).read_bytes()
                expect(same, f"{name}/{file} equals that of the undisturbed run")
            states = [json.loads((each / "state.json").read_text())["progress"] for each in (ours, theirs)]
            expect(states[0] == states[1], f"{name}/ is of the same step with the same best score")

    def worker(self, rank: int) -> int:
        """Return the process id of a rank of a launched job."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    variables = (path / "environ").read_bytes().split(b"\0")
                    if b"PADDLE_TRAINER_ID=%d" % rank in variables:
                        return int(path.name)
            except OSError:  # it has ended
                continue
        raise RuntimeError(f"no process of rank {rank}")


def one_line(ended: tuple[int, str, str], *expected: str) -> None:
    """Expect exit code 2 and one line of an error that says all of `expected`."""
    code, _, errors = ended
    expect(code == 2, f"exit code 2, got {code}: {errors}")
    expect(errors.startswith("error: ") and errors.count("\n") == 1, f"one line, got {errors!r}")
    for text in expected:
        expect(text in errors, f"{text!r} in {errors!r}")


def can_mount() -> bool:
    """Tell whether a small file system can be mounted here, in a name space of its own."""
    if not shutil.which("unshare"):
        return False
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.path.isdir("/mnt") and subprocess.run(words, capture_output=True, check=False).returncode == 0
