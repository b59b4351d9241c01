"""tools/runs.py lists what trains, what ended and what died."""

import json
import os
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest


def write_run(folder: Path, model: str, ago: float = 0.0, **status: object) -> None:
    """Write what a run leaves: config.yaml, and status.json where there is one."""
    (folder / "last").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"MODEL: {{NAME: {model}}}\nMONITOR: {{BEST_METRIC: rsum}}\n")
    if status:
        updated = datetime.now(timezone.utc) - timedelta(seconds=ago)
        sender = {"updated": updated.isoformat(), "pid": os.getpid(), "host": socket.gethostname()}
        (folder / "status.json").write_text(json.dumps({**sender, **status}))


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    at = {"step": 5, "steps": 120, "best_score": 312.34}
    write_run(folder / "vse", "vse", 180, state="running", **at)
    write_run(folder / "demo" / "vsrn", "vsrn", 7300, state="running", **at)
    write_run(
        folder / "demo" / "vsepp", "vsepp", 200_000, state="finished", step=120, steps=120, best_score=None
    )
    write_run(folder / "gone", "vsepp", 300, state="running", **at, pid=2**22 + 1)
    write_run(folder / "old", "oscar")
    write_run(folder / "theirs", "vse")
    (folder / "theirs" / "conversion.json").write_text("{}")
    (folder / "notes").mkdir()
    return folder


def test_runs_are_a_table(run_quickly, out):
    done = run_quickly("runs", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "run         model  state      step     best        last sign of life\n"
        "demo/vsepp  vsepp  finished   120/120  -           2 days ago\n"
        "demo/vsrn   vsrn   silent     5/120    rsum 312.3  2 h ago\n"
        "gone        vsepp  died       5/120    rsum 312.3  5 min ago\n"
        "old         oscar  unknown    -        -           -\n"
        "theirs      vse    converted  -        -           -\n"
        "vse         vse    running    5/120    rsum 312.3  3 min ago\n"
    )


def test_one_run_and_none(run_quickly, out):
    assert run_quickly("runs", out / "vse").stdout.splitlines()[1].startswith("vse  vse    running")
    assert run_quickly("runs", out / "notes").stdout == f"no runs in {out / 'notes'}\n"


def test_runs_are_json_for_programs(run_quickly, out):
    runs = {run["run"]: run for run in json.loads(run_quickly("runs", out, "--json").stdout)}
    assert list(runs) == ["demo/vsepp", "demo/vsrn", "gone", "old", "theirs", "vse"]
    assert runs["gone"]["state"] == "died" and runs["gone"]["pid"] == 2**22 + 1
    assert runs["old"] == {"run": "old", "model": "oscar", "best_metric": "rsum", "state": "unknown"}


def test_a_folder_that_is_missing_is_named(run_quickly, out):
    done = run_quickly("runs", out / "missing")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: command line: FOLDER: expected a folder of runs, got ")


def test_a_training_run_is_listed_and_its_log_has_no_control_characters(run_quickly, tiny, tmp_path):
    done = run_quickly("train_retrieval", *tiny, "OPTIMIZATION.EPOCHS=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable(), "as nohup keeps it"
    (run,) = json.loads(run_quickly("runs", tmp_path, "--json").stdout)
    assert (run["run"], run["model"], run["state"]) == ("run", "vsepp", "finished")
    assert run["step"] == run["steps"] == 6
    assert run["best_score"] > 0 and run["samples_per_second"] > 0
