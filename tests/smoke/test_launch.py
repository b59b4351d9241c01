"""Two processes train one model on the CPU: each on its share, in step, stopped together."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engine.runs.run_folder import read_log
from tests.closeness import assert_close

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tools" / "train_retrieval.py"


def launch(folder: Path, script: Path, *arguments: str) -> subprocess.Popen:
    """Start two processes of a script from `folder`; the launcher's logs go to `<folder>/logs`."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(folder / "logs"), str(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def worker_log(folder: Path, rank: int) -> str:
    return (folder / "logs" / f"workerlog.{rank}").read_text()


def wait_for_steps(log: Path, steps: int, process: subprocess.Popen) -> None:
    while not any(record["step"] >= steps for record in read_log(log)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def job(tiny_run, tmp_path_factory) -> Path:
    """Return the folder of a job that SIGTERM stopped: `run/` and `logs/`."""
    folder = tmp_path_factory.mktemp("job")
    process = launch(folder, TRAIN, *tiny_run(folder), "OPTIMIZATION.EPOCHS=5000")
    wait_for_steps(folder / "run" / "log.jsonl", 4, process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 15, output + errors
    return folder


def test_a_terminated_job_saves_and_leaves_in_step(job):
    stopped = [record for record in read_log(job / "run" / "log.jsonl") if record["event"] == "stopped"]
    state = json.loads((job / "run" / "last" / "state.json").read_text())
    assert [record["step"] for record in stopped] == [state["progress"]["step"]]
    assert "Traceback" not in worker_log(job, 0) + worker_log(job, 1)
    assert "step" not in worker_log(job, 1), "one process speaks"


def test_a_job_is_resumed_to_its_end_and_evaluated(job, tiny_run, run_tool):
    log_before = read_log(job / "run" / "log.jsonl")
    epochs = json.loads((job / "run" / "last" / "state.json").read_text())["progress"]["epoch"] + 1
    process = launch(job, TRAIN, *tiny_run(job), f"OPTIMIZATION.EPOCHS={epochs}", "--resume")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert output.count("done: best rsum") == 1
    records = read_log(job / "run" / "log.jsonl")
    assert records[: len(log_before)] == log_before
    steps = [record["step"] for record in records if record["event"] == "train"]
    assert steps == list(range(1, 3 * epochs + 1)), "an epoch has half the steps, and one process writes"
    evaluated = run_tool("eval_retrieval", "--cfg_file", job / "run" / "config.yaml")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (job / "run" / "eval_test" / "result.json").is_file()


def test_a_users_mistake_ends_the_job_with_its_line(job, tiny_run):
    process = launch(job, TRAIN, *tiny_run(job))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2, output + errors
    assert "error: " in output and "already holds a run" in output and "Traceback" not in output
    assert not (job / "log").exists() and not (ROOT / "log").exists(), "--log_dir takes the launcher's logs"


def test_processes_take_disjoint_shares_average_gradients_and_stop_together(tiny_run, tmp_path):
    script = Path(__file__).with_name("launched.py")
    process = launch(tmp_path, script, tmp_path, *tiny_run(tmp_path))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    zero, one = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1))

    for ours, theirs in zip(zero["captions"], one["captions"], strict=True):
        assert len(ours) == len(theirs) == 50
    epoch = [caption for rank in (zero, one) for step in rank["captions"][:3] for caption in step]
    assert sorted(epoch) == list(range(300)), "every caption once an epoch"

    arrays = [np.load(tmp_path / f"rank_{rank}.npz") for rank in (0, 1)]
    assert arrays[0].files == arrays[1].files
    own = [name for name in arrays[0].files if name.startswith("own/")]
    assert any(not np.allclose(arrays[0][name], arrays[1][name]) for name in own)
    for name in own:
        mean = (arrays[0][name] + arrays[1][name]) / 2
        for rank in arrays:
            size = (np.abs(arrays[0][name]) + np.abs(arrays[1][name])) / 2
            assert_close(rank[name.replace("own", "averaged")], mean, 2, size, err_msg=name)
    weights = [name for name in arrays[0].files if name.startswith("weights/")]
    assert weights and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in weights)
    assert zero["lonely"][:2] == one["lonely"][:2] == [[1.5], [1.5]], "what has no gradient counts as zero"
    assert zero["lonely"][2:] == one["lonely"][2:] == [None, None], "and keeps none if no process has one"

    assert zero["stops"] == one["stops"] == [5, 6], "what one is told, all do"
    assert zero["best"] == one["best"] and zero["best"][1] == 3
