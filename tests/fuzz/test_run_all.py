"""What `make fuzz` must find is found: tracebacks, long lines, hangs, hunger for memory, ends and prints."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from config.errors import UserError
from tests.fuzz import watched
from tests.fuzz.damage import damaged, drawn_changes
from tests.fuzz.kept import ALL
from tests.fuzz.readers import READERS, Reader, as_text
from tests.fuzz.run_all import keep, recorded
from tests.fuzz.watched import Trial, damage, watch


def faulty(fault: Callable[[], object]) -> Reader:
    """Return a reader of text with a fault that shows where the file is not what was written."""

    def read(folder: Path) -> None:
        if (folder / "a.txt").read_bytes() != b"whole and sound":
            fault()

    return Reader(as_text("a.txt", "whole and sound"), read, ("a.txt",))


def raising(error: Exception) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def tried(reader: Reader, folder: Path, inputs: int = 3) -> Trial:
    trial = Trial("a reader", reader, inputs)
    assert list(watch([trial], folder, 1)) == [trial]
    return trial


FAULTS = {
    "a traceback": (raising(KeyError("x")), "KeyError at tests/fuzz/test_run_all.py"),
    "two lines": (raising(UserError("one\ntwo")), "7 characters"),
    "a long line": (raising(UserError("x" * 301)), "301 characters"),
    "a print": (lambda: os.write(2, b"a warning of a library\n"), "prints: a warning"),
    "an end": (lambda: os._exit(7), "the process ends with 7"),
    "memory": (lambda: np.ones(30 << 20), "MB"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_the_rest_is_tried(tmp_path, fault):
    make, expected = FAULTS[fault]
    trial = tried(faulty(make), tmp_path)
    assert trial.found == 3 and trial.findings[0].number == 0
    assert expected in trial.findings[0].what


def test_a_hang_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "PATIENCE", 5)
    trial = tried(faulty(lambda: time.sleep(1000)), tmp_path, 2)
    assert [(each.number, each.what) for each in trial.findings] == [(0, "hangs"), (1, "hangs")]


def test_a_good_reader_reads_and_refuses(tmp_path):
    trial = tried(READERS["captions, csv"], tmp_path, 40)
    assert trial.found == 0 and trial.read + trial.refused == 40 and min(trial.read, trial.refused) > 0


def test_what_a_reader_leaves_behind_is_gone_before_the_next_input(tmp_path):
    def read(folder: Path) -> None:
        assert not (folder / "b.txt").exists()
        (folder / "b.txt").write_text("left")

    def write(folder: Path) -> None:
        (folder / "a.txt").write_text("a")

    def read_once(folder: Path) -> None:
        if (folder / "a.txt").read_text(errors="replace") != "a":
            read(folder)

    assert tried(Reader(write, read_once, ("a.txt",)), tmp_path, 10).found == 0


def test_an_input_is_the_same_again(tmp_path):
    reader = READERS["captions, csv"]
    reader.write(tmp_path)
    first = [damage("captions, csv", reader, number, tmp_path) for number in range(20)]
    assert first == [damage("captions, csv", reader, number, tmp_path) for number in range(20)]
    assert len({data for _, data in first}) > 15


@pytest.mark.parametrize(
    "name", ["scores", "safetensors", "tsv, compressed", "captions, Karpathy", "predictions"]
)
def test_damage_within_containers_gets_past_their_checks(tmp_path, name):
    reader = ALL[name]
    reader.write(tmp_path)
    file = reader.files[0]
    whole = (tmp_path / file).read_bytes()
    random, read = Random(1), 0
    for _ in range(60):
        kind = random.choice(["value", "member"])
        made = [(kind, random.random(), 3 if kind == "value" else ("flip", random.random(), 1))]
        (tmp_path / file).write_bytes(damaged(whole, made))
        try:
            reader.read(tmp_path)
            read += 1
        except UserError:
            pass
    assert read > 0
    assert len({damaged(whole, drawn_changes(random)) for _ in range(20)}) > 10


def test_a_record_leaves_out_what_was_found_wanting(tmp_path):
    record = tmp_path / "record.jsonl"
    good, bad = Trial("npy", READERS["npy"], 5, 2, 3), Trial("hdf5", READERS["hdf5"], 5, found=1)
    for trial in (bad, good):
        keep(trial, record)
    assert list(recorded(record, 5)) == ["npy"] and recorded(record, 6) == {}
