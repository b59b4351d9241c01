"""Files of Oscar and VinVL are converted from the command line, and what does not fit is one line."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file


@pytest.fixture
def oscar(shared, tmp_path) -> Path:
    """Return a copy of the original's checkpoint folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("pytorch_model.bin", "config.json", "vocab.txt"):
        shutil.copyfile(shared / "fixtures" / "oscar" / name, folder / name)
    return folder


def write_pt(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, 2))
    return path


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "pytorch_model.legacy.bin"])
def test_a_checkpoint_keeps_every_tensor(run_quickly, shared, oscar, tmp_path, weights):
    original = shared / "fixtures" / "oscar"
    shutil.copyfile(original / weights, oscar / "pytorch_model.bin")
    done = run_quickly("convert_oscar", oscar, "out/model", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out/model: 2 layers of 64, 74 words, regions of 54 features, 45 tensors\n"
    found, expected = (
        load_file(tmp_path / "out/model/model.safetensors"),
        np.load(original / "oscar.weights.npz"),
    )
    assert found.keys() == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert (tmp_path / "out/model/vocab.txt").read_bytes() == (original / "vocab.txt").read_bytes()
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config == json.loads((original / "config.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model"]


@pytest.mark.parametrize("kind", ["pretrained", "checkpoint of an epoch"])
def test_a_checkpoint_of_vinvl_paddle_brings_the_same(run_quickly, shared, oscar, tmp_path, kind):
    """It has the original's names, Paddle's layout, and is written by paddle.save."""
    expected = dict(np.load(shared / "fixtures" / "oscar" / "oscar.weights.npz"))
    tensors = {
        name: paddle.to_tensor(array.T.copy() if array.ndim == 2 and ".embeddings." not in name else array)
        for name, array in expected.items()
    }
    (oscar / "pytorch_model.bin").unlink()
    content = tensors if kind == "pretrained" else {"epoch": 3, "model": tensors}
    paddle.save(content, str(oscar / "paddle_model.bin"))
    done = run_quickly("convert_oscar", oscar, "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 2 layers of 64, 74 words, regions of 54 features, 45 tensors\n"
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_captions_and_candidates_become_json(run_quickly, shared, tmp_path):
    original = shared / "fixtures" / "oscar"
    done = run_quickly("convert_oscar", original / "test_captions.pt", "data/test.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "data/test.json: 4 images, 20 entries\n", "")
    captions = json.loads((original / "oscar.json").read_text())["captions"]
    assert json.loads((tmp_path / "data/test.json").read_text()) == captions
    done = run_quickly(
        "convert_oscar", original / "minival_caption_indexs_top8.pt", tmp_path / "index.json", cwd=tmp_path
    )
    candidates = json.loads((tmp_path / "index.json").read_text())
    assert candidates["101"][:2] == [[101, 0], [102, 0]] and [*map(len, candidates.values())] == [8] * 4


class Runs:
    """Pickled, a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["model", "captions"])
def test_a_file_that_would_run_something_is_refused(run_quickly, oscar, tmp_path, kind):
    path = oscar / "pytorch_model.bin" if kind == "model" else tmp_path / "captions.pt"
    write_pt(path, {"a": Runs(f"touch {tmp_path / 'ran'}")})
    done = run_quickly("convert_oscar", oscar if kind == "model" else path, "out", cwd=tmp_path)
    expected = (
        "not a file of plain containers and tensors from torch: it asks for posix.system, which is not run"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {path}: {expected}\n")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def edit_config(**changes):
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def append(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


MISTAKES = {
    "config.json: cannot be read (No such file or directory): a BERT's folder has it": lambda folder: (
        folder / "config.json"
    ).unlink(),
    "config.json: not JSON": append("config.json", "}"),
    "config.json: num_hidden_layers is 3, but pytorch_model.bin has 2 layers": edit_config(
        num_hidden_layers=3
    ),
    "vocab.txt: 75 words, but the weights know 74": append("vocab.txt", "more\n"),
    "no file of weights: expected one of model.safetensors, pytorch_model.bin": lambda folder: (
        folder / "pytorch_model.bin"
    ).unlink(),
    "pytorch_model.bin: expected a dict of tensors by name": lambda folder: write_pt(
        folder / "pytorch_model.bin", {"model": [1]}
    ),
    "no tensor embeddings.word_embeddings.weight: not the weights of a BERT": lambda folder: write_pt(
        folder / "pytorch_model.bin", {}
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_does_not_fit_is_one_line_and_loses_nothing(run_quickly, oscar, tmp_path, message):
    assert run_quickly("convert_oscar", oscar, "out", cwd=tmp_path).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    MISTAKES[message](oscar)
    done = run_quickly("convert_oscar", oscar, "out", "--overwrite", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


LISTS = {
    "expected a dict from image keys to lists": [1, 2],
    "key 7: not JSON: ": {7: "[1"},
    "key 7: expected a list in JSON, got '{\"a\": 1}'": {7: '{"a": 1}'},
    "some image key comes as a number and as a text": {7: "[]", "7": "[]"},
}


@pytest.mark.parametrize("message", LISTS)
def test_lists_that_are_none(run_quickly, tmp_path, message):
    write_pt(tmp_path / "a.pt", LISTS[message])
    done = run_quickly("convert_oscar", "a.pt", "a.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: a.pt: ") and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_nothing_is_replaced_unasked(run_quickly, oscar, tmp_path):
    (tmp_path / "there.json").write_text("mine")
    done = run_quickly("convert_oscar", oscar, "there.json", cwd=tmp_path)
    assert (
        done.stderr == "error: there.json: already there: give another output, or --overwrite to replace it\n"
    )
    assert done.returncode == 2 and (tmp_path / "there.json").read_text() == "mine"
