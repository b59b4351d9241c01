"""Work that is split over processes equals that of one process with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.smoke.split_training import CASES, STEPS, evaluate_all, train_all

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "smoke" / "split_training.py"
CASES_OF = {2: list(CASES), 4: ["hinge, hardest", "contrastive", "batch_hard"]}  # by processes
Found = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def alone() -> Found:
    """Return what one process finds."""
    return train_all(CASES)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> dict[int, list[Found]]:
    """Return what each of two processes finds, and each of four."""
    found = {}
    for count, cases in CASES_OF.items():
        folder = tmp_path_factory.mktemp("split")
        command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(count)]
        command += ["--log_dir", str(folder / "logs"), str(SCRIPT), str(folder), *cases]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found[count] = [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(count)]
    return found


@pytest.mark.parametrize(("count", "case"), [(count, case) for count in CASES_OF for case in CASES_OF[count]])
def test_a_split_batch_trains_as_the_whole_one(count, case, alone, split):
    names = [name for name in alone if name.startswith(f"{case}/")]
    assert sum(name.startswith(f"{case}/loss/") for name in names) == STEPS
    for found in split[count]:
        assert [name for name in found if name.startswith(f"{case}/")] == names
        for name in names:
            alike = [each for each in names if each.rsplit("/", 1)[0] == name.rsplit("/", 1)[0]]
            size = max(1.0, *(np.abs(alone[each]).max() for each in alike))  # of a step's gradients, say
            assert np.abs(found[name] - alone[name]).max() <= 1e-5 * size, name
            assert "/weight/" not in name or np.array_equal(found[name], split[count][0][name]), name
    moved = [name for name in names if "/gradient/0/" in name and np.abs(alone[name]).max() > 1e-4]
    assert moved, "a loss without gradients agrees with anything"


@pytest.mark.parametrize("count", CASES_OF)
def test_a_split_evaluation_has_the_ranks_and_metrics_of_the_whole_one(count, split, tmp_path):
    for name, expected in evaluate_all(tmp_path).items():
        for found in split[count]:
            if name != "failures":
                np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("count", CASES_OF)
def test_what_one_process_raises_ends_the_work_of_all(count, split):
    *others, last = [found["failures"].tolist() for found in split[count]]
    assert last == ["ValueError", "KeyError"]
    assert all(heard == ["UserError", "UserError"] for heard in others)
