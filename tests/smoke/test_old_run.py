"""A run folder of commit 79f190b, before the modules had rooms, is read by today's tools.

`old_run` holds 12, 6 and 6 images with random features, a VSE++ of width 6 that was trained on them for two
epochs, and what that commit's eval_retrieval.py wrote.
"""

import json
import shutil
from pathlib import Path

import pytest

OLD = Path(__file__).with_name("old_run")


@pytest.fixture
def old_run(tmp_path) -> Path:
    """Return a copy of the run folder."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def places(old_run: Path) -> list[str]:
    return [f"DATASET.DATA_DIR={OLD / 'data'}", f"OUTPUT.CHECKPOINT_DIR={old_run.parent}"]


def test_it_is_measured_to_the_numbers_of_then(old_run, run_quickly):
    result = old_run / "eval_test" / "result.json"
    before = json.loads(result.read_text())
    result.unlink()
    done = run_quickly("eval_retrieval", "--cfg_file", old_run / "config.yaml", *places(old_run))
    assert done.returncode == 0, done.stderr
    now = json.loads(result.read_text())
    assert (now["metrics"], now["folds"]) == (before["metrics"], before["folds"])
    told = {name: now["protocol"][name] for name in before["protocol"]}  # a later version tells more
    assert told == before["protocol"]
    assert now["checkpoint"]["sha256"] == before["checkpoint"]["sha256"]


def test_it_goes_on_with_more_epochs(old_run, run_quickly):
    more = [*places(old_run), "OPTIMIZATION.EPOCHS=3", "--resume"]
    done = run_quickly("train_retrieval", "--cfg_file", old_run / "config.yaml", *more)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line).get("step") for line in (old_run / "log.jsonl").read_text().splitlines()]
    assert steps[-1] == 12  # four steps an epoch, of which eight were taken then
    state = json.loads((old_run / "last" / "state.json").read_text())
    assert (state["progress"]["step"], state["progress"]["epoch"]) == (12, 3)


def test_it_is_measured_from_any_folder_without_naming_its_data(tmp_path, run_quickly):
    shutil.copytree(OLD, tmp_path / "old")  # its training was started in old/, beside data/
    for folder, named in ((tmp_path / "old" / "data", "../run"), (tmp_path, "old/run")):
        done = run_quickly("eval_retrieval", "--cfg_file", named, cwd=folder)
        assert done.returncode == 0, done.stderr


def test_moved_away_from_its_data_it_says_which_key_to_set(old_run, run_quickly, tmp_path):
    done = run_quickly("eval_retrieval", "--cfg_file", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data: no such folder") and "DATASET.DATA_DIR" in done.stderr
    assert done.stderr.count("\n") == 1
