"""A checkpoint is whole or absent, loads strictly, and says what is wrong with it in one line."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import paddle
import pytest

from config.errors import UserError
from engine.runs.checkpoint import (
    MODEL_FILE,
    load_model,
    newest_whole,
    read_state,
    resolve_checkpoint,
    save_checkpoint,
    verify_files,
)
from engine.weights.tensors import check_arrays, layer_arrays


@pytest.fixture
def layer() -> paddle.nn.Layer:
    return paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))


def save(folder: Path, layer: paddle.nn.Layer, step: int = 1, keep_before: bool = False) -> None:
    trainer, state = {"optimizer.moment": np.ones(3, np.float32)}, {"step": step, "loss": 0.1}
    state = {"model": "vsepp", "progress": state}
    save_checkpoint(folder, layer_arrays(layer), trainer, state, "{}", keep_before=keep_before)


def test_parameters_and_buffers_return_bit_for_bit(tmp_path, layer):
    save(tmp_path / "last", layer)
    fresh = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    state = load_model(tmp_path / "last", fresh, "vsepp")
    assert state["progress"]["step"] == 1
    for name, array in layer_arrays(layer).items():
        assert np.array_equal(layer_arrays(fresh)[name], array), name


def test_each_weight_of_a_recurrent_layer_is_stored_once():
    names = layer_arrays(paddle.nn.GRU(3, 4))
    assert len(names) == 4


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path, layer):
    save(tmp_path / "last", layer, step=1)
    save(tmp_path / "last", layer, step=2)
    assert read_state(tmp_path / "last")["progress"]["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_crash_between_the_two_renames_leaves_the_checkpoint_before(tmp_path, layer, monkeypatch):
    save(tmp_path / "last", layer, step=1)
    rename, calls = os.rename, []

    def crash_at_the_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "last", layer, step=2)
    monkeypatch.undo()
    assert resolve_checkpoint(tmp_path / "last").name == ".last.old"
    assert read_state(tmp_path / "last")["progress"]["step"] == 1
    save(tmp_path / "last", layer, step=3)
    assert read_state(tmp_path / "last")["progress"]["step"] == 3


def flip_in(name: str):
    """Return a damage: one bit, in the midst of a file of a checkpoint."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)

    return damage


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("call", range(6))
def test_a_kill_at_any_moment_leaves_two_whole_checkpoints(tmp_path, layer, monkeypatch, call):
    folder = tmp_path / "last"
    for step in (1, 2):
        save(folder, layer, step=step, keep_before=True)
    calls = iter(range(100))

    def kill_at(function):
        def work(*arguments, **named):
            if next(calls) == call:
                raise KilledError
            return function(*arguments, **named)

        return work

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", kill_at(os.rename))
        patch.setattr(shutil, "rmtree", kill_at(shutil.rmtree))
        with contextlib.suppress(KilledError):
            save(folder, layer, step=3, keep_before=True)
    newest, _ = newest_whole(folder)
    shutil.rmtree(newest)
    second, _ = newest_whole(folder)
    assert read_state(second)["progress"]["step"] < 3
    for step in (4, 5):  # the next run clears what was left
        save(folder, layer, step=step, keep_before=True)
    assert {path.name for path in tmp_path.iterdir()} == {"last", ".last.old"}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_in("model.safetensors"), "model.safetensors is damaged: its checksum differs"),
        (flip_in("trainer.safetensors"), "trainer.safetensors is damaged: its checksum differs"),
        (lambda folder: os.truncate(folder / "model.safetensors", 100), "expected .* bytes, found 100"),
        (lambda folder: (folder / "state.json").unlink(), "last is gone, or lacks state.json"),
        (shutil.rmtree, "last is gone"),
    ],
    ids=["model", "trainer", "truncated", "no state", "deleted"],
)
def test_a_damaged_checkpoint_has_one_before_it(tmp_path, layer, damage, told):
    for step in (1, 2, 3):
        save(tmp_path / "last", layer, step, keep_before=True)
    assert newest_whole(tmp_path / "last") == (tmp_path / "last", "")
    damage(tmp_path / "last")
    found, problem = newest_whole(tmp_path / "last")
    assert found == tmp_path / ".last.old" and read_state(found)["progress"]["step"] == 2
    assert re.search(told, problem) and "\n" not in problem and ";" not in problem
    flip_in("model.safetensors")(found)
    with pytest.raises(UserError, match=f"no checkpoint to go on from: .*{told}.*old/model.safetensors is"):
        newest_whole(tmp_path / "last")


def test_any_bit_of_the_state_that_flips_is_found_or_changes_nothing(tmp_path, layer):
    save(tmp_path / "last", layer)
    path = tmp_path / "last" / "state.json"
    whole, state = path.read_bytes(), read_state(tmp_path / "last")
    found = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            _, problem = newest_whole(tmp_path / "last")
        except UserError:
            found += 1
        else:
            changed = read_state(tmp_path / "last")
            assert {name: changed[name] for name in state} == state, "white space, or the checksum's name"
    assert found > len(whole) / 2


def test_no_checkpoint_at_all_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*last: no such folder"):
        newest_whole(tmp_path / "last")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[: len(content) // 2], "safetensors"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "checksum differs"),
    ],
    ids=["cut in half", "one bit flipped"],
)
def test_damage_is_found_and_the_file_named(tmp_path, layer, damage, expected):
    save(tmp_path / "last", layer)
    path = tmp_path / "last" / MODEL_FILE
    path.write_bytes(damage(path.read_bytes()))
    before = layer_arrays(layer)
    with pytest.raises(UserError, match=expected) as caught:
        load_model(tmp_path / "last", layer, "vsepp")
    assert MODEL_FILE in str(caught.value) and "\n" not in str(caught.value)
    assert all(np.array_equal(before[name], array) for name, array in layer_arrays(layer).items())


def test_a_missing_file_is_named(tmp_path, layer):
    save(tmp_path / "last", layer)
    (tmp_path / "last" / "vocab.json").unlink()
    with pytest.raises(UserError, match="lacks vocab.json"):
        verify_files(tmp_path / "last", read_state(tmp_path / "last"))


@pytest.mark.parametrize("files", [{}, [], {"model.safetensors": "x"}, {"model.safetensors": {"bytes": 1}}])
def test_state_of_another_form_is_named(tmp_path, layer, files):
    save(tmp_path / "last", layer)
    path = tmp_path / "last" / "state.json"
    state = json.loads(path.read_text()) | {"files": files}
    del state["checksum"]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state\.json: not the state of a checkpoint"):
        read_state(tmp_path / "last")


def test_state_that_is_not_json_is_named(tmp_path, layer):
    save(tmp_path / "last", layer)
    path = tmp_path / "last" / "state.json"
    for content in (path.read_text().replace("progress", "regress"), '{"files": '):
        path.write_text(content)
        with pytest.raises(UserError, match="state.json: not the state of a checkpoint"):
            read_state(tmp_path / "last")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda arrays: arrays.pop("0.bias"), "lacks 0.bias"),
        (lambda arrays: arrays.update(extra=np.ones(1, np.float32)), "unexpected extra"),
        (
            lambda arrays: arrays.update({"0.bias": np.ones(5, np.float32)}),
            r"0.bias has shape \[5\].*expects \[4\]",
        ),
        (lambda arrays: arrays.update({"0.bias": np.ones(4, np.float64)}), "0.bias is float64"),
    ],
    ids=["missing", "extra", "misshapen", "another type"],
)
def test_tensors_must_fit_the_model_exactly(layer, change, expected):
    arrays = layer_arrays(layer)
    change(arrays)
    with pytest.raises(UserError, match=expected):
        check_arrays(layer, arrays, "model.safetensors")


def test_a_checkpoint_of_another_model_is_refused(tmp_path, layer):
    save(tmp_path / "last", layer)
    with pytest.raises(UserError, match="holds a vsepp model.*MODEL.NAME=vsepp"):
        load_model(tmp_path / "last", layer, "vse")


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        resolve_checkpoint(tmp_path / "best")


FULL_DISK = """
import resource, signal, sys
import numpy as np
from config.errors import UserError
from engine.runs.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    save_checkpoint(sys.argv[1], {"weight": np.full(100_000, 2, np.float32)}, {}, {"model": "vsepp"}, "{}")
except UserError as error:
    print(error)
    sys.exit(2)
"""


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    folder = tmp_path / "last"
    save_checkpoint(folder, {"weight": np.ones(100_000, np.float32)}, {}, {"model": "vsepp"}, "{}")
    before = (folder / MODEL_FILE).read_bytes()
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), "50000"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("\n") == 1 and "intact" in done.stdout
    assert (folder / MODEL_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert json.loads((folder / "state.json").read_text())["model"] == "vsepp"


@pytest.mark.parametrize("state", ["running", "stopped", "failed", "died"])
@pytest.mark.parametrize("has_last", [False, True])
def test_before_the_first_validation_the_state_of_the_run_is_told(tmp_path, state, has_last):
    pid, found = (os.getpid(), state) if state != "died" else (2**22 + 1, "running")
    status = {"state": found, "step": 3, "steps": 40, "pid": pid, "host": socket.gethostname()}
    status["updated"] = datetime.now(timezone.utc).isoformat()
    (tmp_path / "status.json").write_text(json.dumps(status))
    if has_last:
        (tmp_path / "last").mkdir()
        (tmp_path / "last/state.json").write_text("{}")
    with pytest.raises(UserError) as error:
        resolve_checkpoint(tmp_path / "best")
    message = str(error.value)
    assert "at step 3 of 40; " in message
    advice = "wait for its first validation" if state == "running" else "go on with --resume"
    assert advice in message
    assert (f"use EVAL.CHECKPOINT_DIR={tmp_path / 'last'}" in message) == has_last
    assert "train the run first" not in message
