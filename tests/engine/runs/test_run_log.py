"""What a run says: lines for files and pipes, a bar for terminals, JSON lines for programs."""

import io
import json
import time

import pytest
from visualdl import LogReader, LogWriter

from config.errors import UserError
from engine.runs.run_log import RunLog, validation_line
from engine.runs.visualdl_curves import VisualDLCurves

RECORD = {"step": 10, "epoch": 0.5, "loss": 2.5, "lr": 1e-3, "samples_per_second": 99.6}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(log: RunLog) -> None:
    log.start(20, 9, best_score=None)
    log.advance()
    log.step(RECORD, seconds_left=3725.4)
    log.validation({"step": 10, "rsum": 1.0}, "validated", best_score=1.0)
    log.event("stopped", 10, "stopping")
    log.close("stopped")


def test_without_a_terminal_each_logged_step_is_a_plain_line(tmp_path, capsys):
    run(RunLog(tmp_path / "log.jsonl", None, enabled=True))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "epoch 0.50  step 10  loss 2.5  lr 0.001  100 samples/s  left 1:02:05",
        "validated",
        "stopping",
    ]
    assert captured.err == ""


def test_on_a_terminal_a_bar_shows_steps_loss_rate_speed_and_time_left(tmp_path, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(RunLog(tmp_path / "log.jsonl", None, enabled=True))
    bar = terminal.getvalue()
    assert "9/20" in bar and "10/20" in bar and "loss 2.5  lr 0.001  100 samples/s" in bar and "<" in bar
    assert capsys.readouterr().out.splitlines() == ["validated", "stopping"], "lines above the bar"


def test_the_log_is_one_json_object_a_line(tmp_path):
    run(RunLog(tmp_path / "log.jsonl", None, enabled=True))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records] == ["train", "validation", "stopped"]
    assert {key: records[0][key] for key in RECORD} == RECORD
    assert records[2]["message"] == "stopping" and all(record["time"] > 1e9 for record in records)


def test_other_processes_are_silent(tmp_path, capsys):
    run(RunLog(tmp_path / "log.jsonl", tmp_path / "curves", enabled=False))
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_curves_are_written_for_visualdl(tmp_path):
    run(RunLog(tmp_path / "log.jsonl", tmp_path / "curves", enabled=True))
    (curves,) = (tmp_path / "curves").iterdir()
    reader = LogReader(file_path=str(curves))
    assert set(reader.get_tags()["scalar"]) == {
        "train/epoch",
        "train/loss",
        "train/lr",
        "train/samples_per_second",
        "validation/rsum",
    }
    (point,) = reader.get_data("scalar", "train/loss")
    assert (point.id, point.value) == (10, 2.5) and abs(point.timestamp / 1000 - time.time()) < 600


def test_curves_equal_those_of_visualdls_own_writer(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    curves = VisualDLCurves(tmp_path / "ours")
    theirs = LogWriter(str(tmp_path / "theirs"))
    for step, value in ((1, 2.5), (2, 1e-9)):
        curves.add({"train/loss": value}, step)
        theirs.add_scalar("train/loss", value, step)
    curves.close()
    theirs.close()
    (ours,), (theirs,) = ((tmp_path / name).iterdir() for name in ("ours", "theirs"))
    assert ours.name == theirs.name and ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("lost", [0, 1, 9])
def test_a_resumed_run_shows_its_curves_from_the_beginning(tmp_path, monkeypatch, lost):
    for start in range(3):
        monkeypatch.setattr("time.time", lambda start=start: 1_700_000_000.0 + start)
        curves = VisualDLCurves(tmp_path)
        for step in range(3 * start, 3 * start + 3):
            curves.add({"loss": float(step)}, step)
        curves.close()
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[: -lost or None])  # as a kill within a record leaves it
    curves = VisualDLCurves(tmp_path)
    curves.close()
    reader = LogReader(logdir=str(tmp_path))  # reads what VisualDL's page shows
    reader.load_new_data()
    (run,) = reader.runs()
    points = [
        (point.id, point.value)
        for point in reader.data_manager.get_reservoir("scalar").get_items(run, "loss")
    ]
    assert points == [(step, step) for step in range(9) if not lost or step % 3 < 2]


def test_a_log_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="cannot write the log in .*missing: No such file.*--resume"):
        RunLog(tmp_path / "missing" / "log.jsonl", None, enabled=True).log_event("failed", 1, "")
    (tmp_path / "curves").write_text("")
    with pytest.raises(UserError, match="cannot write the log in .*File exists.*--resume"):
        RunLog(tmp_path / "log.jsonl", tmp_path / "curves", enabled=True).step(RECORD, 0.0)


def test_the_line_of_a_validation_names_the_best_there_was():
    metrics = {f"{way}_r{k}": float(k) for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"rsum": 32.0}
    line = (
        "validation at step 7: R@1/5/10 image-to-text 1.0/5.0/10.0  text-to-image 1.0/5.0/10.0  rsum 32.0  "
    )
    assert validation_line(7, metrics, best=None) == line + "(best)"
    assert validation_line(7, metrics, best=(33.0, 5)) == line + "(best 33.0 at step 5)"
