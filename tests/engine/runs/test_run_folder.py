"""The run folder loses nothing by accident, belongs to one process, and keeps a clean log."""

import json

import pytest

from config.errors import UserError
from engine.runs.run_folder import RunFolder, read_log


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def checkpoint(folder: RunFolder, *names: str) -> None:
    for name in names:
        (folder.path / name).mkdir(parents=True)
        (folder.path / name / "state.json").write_text("{}")


def test_a_new_run_takes_an_empty_folder_or_one_without_checkpoints(folder):
    folder.open_for_training(resume=False, overwrite=False)
    (folder.path / "notes.txt").write_text("mine")
    folder.log_file.write_text("{}\n")
    RunFolder(folder.path.parent / "other").open_for_training(resume=False, overwrite=False)
    folder._lock.close()
    RunFolder(folder.path).open_for_training(resume=False, overwrite=False)


@pytest.mark.parametrize("names", [("last", "best"), (".last.old",), ("best",), ("epoch_2",)])
def test_a_run_that_is_there_is_not_overwritten_by_accident(folder, names):
    checkpoint(folder, *names)
    with pytest.raises(UserError, match="already holds a run.*--overwrite.*OUTPUT.SAVE_NAME") as caught:
        folder.open_for_training(resume=False, overwrite=False)
    assert ("--resume" in str(caught.value)) == folder.has_last(), "only what can be done is advised"
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(names), "not even a lock stays"
    RunFolder(folder.path).open_for_training(resume=False, overwrite=True)


def test_a_start_that_is_given_up_leaves_what_was_there(tmp_path):
    (tmp_path / "mine").mkdir()
    deep = RunFolder(tmp_path / "mine" / "out" / "demo" / "run")
    deep.open_for_training(resume=False, overwrite=False)
    deep.abandon()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    deep.open_for_training(resume=False, overwrite=False)  # and it can be tried again
    (deep.path / "notes.txt").write_text("written meanwhile")
    deep.abandon()
    assert [path.name for path in deep.path.iterdir()] == ["notes.txt"]
    deep.open_for_training(resume=False, overwrite=False)
    resumed = RunFolder(deep.path)
    deep._lock.close()
    resumed.open_for_training(resume=False, overwrite=False)
    resumed.abandon()
    assert sorted(path.name for path in deep.path.iterdir()) == [".lock", "notes.txt"], "an older lock stays"


def test_nothing_to_resume_is_said_and_leaves_no_folder(folder):
    with pytest.raises(UserError, match="nothing to resume in .*without --resume"):
        folder.open_for_training(resume=True, overwrite=False)
    assert not folder.path.exists()


def test_a_second_process_is_kept_out(folder):
    folder.open_for_training(resume=False, overwrite=False)
    second = RunFolder(folder.path)
    with pytest.raises(UserError, match="another process is training in .*OUTPUT.SAVE_NAME"):
        second.open_for_training(resume=False, overwrite=True)
    second.abandon()
    with pytest.raises(UserError, match="another process is training in"):
        RunFolder(folder.path).open_for_training(resume=False, overwrite=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match="cannot write to the run folder .*file/run: Not a directory.*CHECKPOINT_DIR"
    ):
        RunFolder(tmp_path / "file" / "run").open_for_training(resume=False, overwrite=False)


def test_clearing_removes_a_run_and_nothing_else(folder):
    checkpoint(
        folder,
        "best",
        "last",
        ".last.old",
        ".last.older",
        ".last.damaged",
        ".epoch_3.new",
        "epoch_3",
        "curves",
        "mine",
        "epoch_mine",
    )
    for name in ("log.jsonl", "notes.txt", ".status.json.99.new"):
        (folder.path / name).write_text("")
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == ["epoch_mine", "mine", "notes.txt"]


def test_a_damaged_checkpoint_is_set_aside_not_kept_as_the_one_before(folder):
    checkpoint(folder, "last", ".last.old", ".last.damaged")
    (folder.last / "mine").touch()
    folder.set_aside_damaged()
    assert sorted(path.name for path in folder.path.iterdir()) == [".last.damaged", ".last.old"]
    assert (folder.path / ".last.damaged" / "mine").exists(), "the newest"
    folder.set_aside_damaged()
    assert folder.has_last()


def test_the_newest_epochs_are_kept_by_number(folder):
    checkpoint(folder, *(f"epoch_{epoch}" for epoch in (2, 4, 8, 10, 12)))
    folder.prune_epochs(keep=2)
    assert [epoch for epoch, _ in folder.kept_epochs()] == [10, 12]


def write(folder: RunFolder, *records: dict) -> None:
    folder.path.mkdir(parents=True)
    folder.log_file.write_text("".join(json.dumps({"time": 1.0, **record}) + "\n" for record in records))


def test_a_resume_drops_what_it_will_write_again(folder):
    before = [
        {"event": "train", "step": 8},
        {"event": "validation", "step": 8},
        {"event": "stopped", "step": 10},
    ]
    write(folder, *before, {"event": "validation", "step": 10}, {"event": "train", "step": 12})
    folder.trim_log(step=10, last_validation=8)
    assert read_log(folder.log_file) == [{"time": 1.0, **record} for record in before]


def test_a_line_cut_short_by_a_crash_is_left_out(folder):
    write(folder, {"event": "train", "step": 1})
    with open(folder.log_file, "a") as file:
        file.write('{"event": "train", "st')
    assert read_log(folder.log_file) == [{"time": 1.0, "event": "train", "step": 1}]
    folder.trim_log(step=5, last_validation=0)
    assert folder.log_file.read_text().count("\n") == 1


@pytest.mark.parametrize(
    "other",
    [
        *(
            {"step": "1"},
            {"step": None},
            {"time": "noon"},
            {"time": float("nan")},
            {"loss": [1]},
            {"event": 1},
        ),
        *({"loss": 10**400}, {"event": None}),
    ],
)
def test_a_line_that_training_did_not_write_is_left_out(folder, other):
    good = {"event": "train", "step": 1, "time": 1.0, "loss": 0.5}
    write(folder, good, good | other, good)
    assert read_log(folder.log_file) == [good, good]
    folder.trim_log(step=5, last_validation=0)


def test_no_log_is_an_empty_log(folder):
    assert read_log(folder.log_file) == []
    folder.trim_log(step=5, last_validation=0)
