"""A reader's damaged files, tried in a process of its own that another one watches."""

import contextlib
import json
import mmap
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from config.errors import UserError
from tests.fuzz.damage import damaged, drawn_changes
from tests.fuzz.readers import Reader

LONGEST_MESSAGE, LONGEST_SECONDS, MOST_BYTES = 300, 2.0, 200 << 20
MOST_ADDRESSES = 16 << 30  # bytes that a process may reserve, so that a finding ends no other process
PATIENCE = 600  # looks, a tenth of a second apart, at an input that does not end
SAME = 3  # findings of one kind that are kept
ROOT = Path(__file__).resolve().parents[2]
NUMBER, READ, REFUSED, FOUND, CODES = range(5)  # what a process tells the one that watches
UNDONE = 3  # exit code of a process that wants to go on in a new one


@dataclass
class Finding:
    """An input that was neither read nor refused in one short line, in time and in little memory."""

    number: int
    what: str


@dataclass
class Trial:
    """What a reader makes of `inputs` damaged files, as far as it got."""

    name: str
    reader: Reader
    inputs: int
    read: int = 0
    refused: int = 0
    found: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def damage(name: str, reader: Reader, number: int, folder: Path) -> tuple[str, bytes]:
    """Return which file of a folder the input `number` of a reader damages, and its content then."""
    random = Random(f"{name} {number}")
    file = random.choice(reader.files)
    return file, damaged((folder / file).read_bytes(), drawn_changes(random))


def watch(trials: list[Trial], folder: Path, jobs: int) -> Iterator[Trial]:
    """Carry out trials in `folder`, `jobs` at a time, and yield each when it is done."""
    waiting, running = list(trials), []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_Watch(waiting.pop(0), folder / str(len(waiting))))
        time.sleep(0.1)
        for each in running[:]:
            if each.is_done():
                running.remove(each)
                yield each.trial


class _Watch:
    """The process of a trial, which is begun again behind an input that ended it."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self.trial, self.folder = trial, folder
        folder.mkdir()
        self.told = np.frombuffer(mmap.mmap(-1, 8 * CODES), np.int64)  # shared with the process
        self.began = time.monotonic()
        self._begin(0)

    def _begin(self, first: int) -> None:
        self.told[NUMBER], self.looks = first, 0
        self.last = first
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                code = _Worker(self.trial, self.folder, self.told).work(first)
            finally:
                os._exit(code)

    def is_done(self) -> bool:
        """Look at the process, and begin another where one input has ended it."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        number = int(self.told[NUMBER])
        self.looks = self.looks + 1 if number == self.last else 0
        self.last = number
        what = ""
        if not ended and self.looks > PATIENCE:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            what = "hangs"
        elif not ended:
            return False
        elif (code := os.waitstatus_to_exitcode(status)) not in (0, UNDONE):
            errors = (self.folder / "printed").read_text(errors="replace")[-300:]
            what = f"the process ends with {code}: {errors}"
        if what:
            self._note(number, what)
        if number + 1 < self.trial.inputs:
            self._begin(number + 1)
            return False
        self._collect()
        return True

    def _note(self, number: int, what: str) -> None:
        self.told[FOUND] += 1
        with (self.folder / "findings").open("a") as file:
            file.write(json.dumps([number, what]) + "\n")

    def _collect(self) -> None:
        trial = self.trial
        trial.read, trial.refused, trial.found = (int(self.told[code]) for code in (READ, REFUSED, FOUND))
        trial.seconds = round(time.monotonic() - self.began, 1)
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "findings").read_text().splitlines()
            trial.findings = [Finding(*json.loads(line)) for line in lines]
        shutil.rmtree(self.folder)


class _Worker:
    """A process that tries one input after the other."""

    def __init__(self, trial: Trial, folder: Path, told: np.ndarray) -> None:
        self.trial, self.folder, self.told = trial, folder, told
        self.kinds: Counter[str] = Counter()
        self.findings = (folder / "findings").open("a", buffering=1)
        self.printed = os.open(folder / "printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(self.printed, stream)
        warnings.simplefilter("always", append=True)  # the library may silence some

    def work(self, first: int) -> int:
        """Try inputs from `first` on; return the exit code of the process."""
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        whole, place = self.folder / "whole", self.folder / "damaged"
        for folder in (whole, place):
            shutil.rmtree(folder, ignore_errors=True)
        whole.mkdir()
        self.trial.reader.write(whole)
        shutil.copytree(whole, place)
        self.trial.reader.read(place)  # as it is, it can be read
        self._said()
        files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
        before = peak_bytes()
        for number in range(first, self.trial.inputs):
            self.told[NUMBER] = number
            file, data = damage(self.trial.name, self.trial.reader, number, whole)
            (place / file).write_bytes(data)
            kept = _states(place)
            found = self._try(number, place)
            if peak_bytes() - before - len(data) > MOST_BYTES:
                self._note("memory", number, f"{(peak_bytes() - before) >> 20} MB")
                return UNDONE  # what follows is measured from a new peak
            if found or _states(place) != kept:
                shutil.rmtree(place)
                shutil.copytree(whole, place)
            else:
                (place / file).write_bytes(files[Path(file)])
        return 0

    def _try(self, number: int, place: Path) -> bool:
        """Read one input; return whether something is to be told of it."""
        begun, before = time.process_time(), sum(self.kinds.values())  # other processes may hold the cores
        try:
            self.trial.reader.read(place)
            self.told[READ] += 1
        except UserError as error:
            self.told[REFUSED] += 1
            message = str(error).replace(f"{place}/", "")
            if "\n" in message or len(message) > LONGEST_MESSAGE:
                self._note("message", number, f"{len(message)} characters: {message[:LONGEST_MESSAGE]}")
        except Exception as error:
            self._note(_place_of(error), number, f"{_place_of(error)}: {str(error)[:200]}")
        seconds = time.process_time() - begun
        if seconds > LONGEST_SECONDS:
            self._note("time", number, f"{seconds:.1f} s")
        if said := self._said():
            self._note(f"printed {said[-40:]}", number, f"prints: {said}")
        return sum(self.kinds.values()) != before

    def _said(self) -> str:
        """Return what was printed, by whatever library, since the last call."""
        sys.stderr.flush()
        sys.stdout.flush()
        if not os.fstat(self.printed).st_size:
            return ""
        said = os.pread(self.printed, LONGEST_MESSAGE, 0).decode(errors="replace")
        os.ftruncate(self.printed, 0)
        return said

    def _note(self, kind: str, number: int, what: str) -> None:
        self.told[FOUND] += 1
        self.kinds[kind] += 1
        if self.kinds[kind] <= SAME:
            self.findings.write(json.dumps([number, what]) + "\n")


def _states(folder: Path) -> list[tuple]:
    """Return what tells whether a reader has changed files of a folder or made others."""
    states = []
    for path, _, names in os.walk(folder):
        for name in names:
            state = os.stat(f"{path}/{name}")
            states.append((path, name, state.st_size, state.st_mtime_ns))
    return states


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _place_of(error: Exception) -> str:
    """Return the type of an exception, and the last line of the library that it came by."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and "/.venv/" not in frame.filename
    ]
    frame = frames[-1]
    return f"{type(error).__name__} at {Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
