"""A run gives signs of life, and one that died without a word is known."""

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from engine.runs.run_status import RunStatus, read_status
from engine.training.outcomes import TrainingStoppedError

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Return the list whose last number is the time."""
    times = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: times[-1])
    return times


def test_the_file_is_one_line_that_says_where_the_run_stands(tmp_path, clock):
    path = tmp_path / "status.json"
    status = RunStatus(path)
    status.start(4, 20, None)
    text = path.read_text()
    assert text.endswith("\n") and text.count("\n") == 1
    written = json.loads(text)
    assert datetime.fromisoformat(written.pop("updated")).utcoffset() == timedelta(0)
    assert written == {
        "state": "running",
        "step": 4,
        "steps": 20,
        "epoch": None,
        "samples_per_second": None,
        "seconds_left": None,
        "best_score": None,
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }
    status.set({"samples_per_second": 3.5, "seconds_left": 9.0, "best_score": 7.0})
    status.advance()
    assert path.read_text() == text, "not more often than every few seconds"
    clock.append(106.0)
    status.advance()
    beaten = json.loads(path.read_text())
    assert (beaten["step"], beaten["samples_per_second"], beaten["best_score"]) == (6, 3.5, 7.0)
    status.end("finished")
    ended = json.loads(path.read_text())
    assert (ended["state"], ended["step"], ended["seconds_left"]) == ("finished", 6, None)
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_run_that_has_not_begun_leaves_the_file_of_the_one_before(tmp_path):
    status = RunStatus(tmp_path / "status.json")
    status.heartbeat()
    status.end("failed")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_does_not_stop_training(tmp_path):
    RunStatus(tmp_path / "missing" / "status.json").start(0, 1, None)


def write(folder, **values) -> None:
    status = {"state": "running", "step": 3, "steps": 9, "updated": NOW.isoformat(), "pid": os.getpid()}
    (folder / "status.json").write_text(json.dumps({**status, "host": socket.gethostname(), **values}))


def test_a_run_is_running_while_its_process_is(tmp_path):
    write(tmp_path)
    read = read_status(tmp_path, NOW + timedelta(seconds=90))
    assert (read["state"], read["step"], read["seconds_ago"]) == ("running", 3, 90.0)


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, pid=gone.pid)
    assert read_status(tmp_path, NOW)["state"] == "died"
    write(tmp_path, pid=gone.pid, state="stopped")
    assert read_status(tmp_path, NOW)["state"] == "stopped", "it said so"
    write(tmp_path, pid=gone.pid, host="another")
    assert read_status(tmp_path, NOW)["state"] == "running", "processes elsewhere cannot be seen from here"


def test_a_run_without_a_sign_of_life_is_silent(tmp_path):
    for host in (socket.gethostname(), "another"):
        write(tmp_path, host=host)
        assert read_status(tmp_path, NOW + timedelta(minutes=9))["state"] == "running"
        assert read_status(tmp_path, NOW + timedelta(minutes=11))["state"] == "silent"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"state": "running"}', '{"updated": 5}', "\xff"])
def test_what_cannot_be_read_is_unknown(tmp_path, text):
    if text is not None:
        (tmp_path / "status.json").write_bytes(text.encode("latin-1"))
    assert read_status(tmp_path, NOW) == {"state": "unknown"}


def test_training_writes_it(make_run, tmp_path):
    run = make_run(epochs=2, print_step=5)
    run.trainer.fit()
    run.trainer.log.close("finished")
    read = json.loads((tmp_path / "status.json").read_text())
    assert (read["state"], read["step"], read["steps"]) == ("finished", 12, 12)
    assert read["best_score"] == 12.0 and read["epoch"] == pytest.approx(10 / 6, abs=1e-3)
    assert read["samples_per_second"] > 0

    stopped = make_run(epochs=2)
    stopped.trainer.stop_signal = 15
    with pytest.raises(TrainingStoppedError):
        stopped.trainer.fit()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running", "until it is closed"
    stopped.trainer.log.close("stopped")
    read = json.loads((tmp_path / "status.json").read_text())
    assert (read["state"], read["step"], read["best_score"]) == ("stopped", 1, None)
