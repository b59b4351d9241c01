"""A BERT in Hugging Face's layout becomes a folder to start from, by the command line, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bert(tmp_path) -> Path:
    """Return a folder as the oldest ones on the hub: `gamma` and `beta`, and heads of the pre-training."""
    random = np.random.default_rng(0)
    shapes = {
        "bert.embeddings.word_embeddings.weight": (7, 4),
        "bert.embeddings.LayerNorm.gamma": (4,),
        "bert.embeddings.LayerNorm.beta": (4,),
        "bert.embeddings.position_ids": (1, 5),
        "bert.encoder.layer.0.attention.self.query.weight": (4, 4),
        "bert.encoder.layer.0.output.LayerNorm.gamma": (4,),
        "bert.pooler.dense.weight": (4, 4),
        "cls.predictions.bias": (7,),
        "cls.seq_relationship.weight": (2, 4),
    }
    folder = tmp_path / "hub"
    folder.mkdir()
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 1, "hidden_size": 4}))
    (folder / "vocab.txt").write_text("".join(f"word{number}\n" for number in range(7)))
    return folder


def test_names_become_the_originals_and_heads_are_left_out(run_quickly, bert, tmp_path):
    done = run_quickly("fetch_pretrained", bert, "bert", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout == "bert: 1 layers of 4, 7 words, 6 tensors; left out: cls.*, embeddings.position_ids\n"
    )
    found, source = load_file(tmp_path / "bert/model.safetensors"), load_file(bert / "model.safetensors")
    for name, array in source.items():
        renamed = name.replace("gamma", "weight").replace("beta", "bias")
        if name.startswith("cls.") or name.endswith("position_ids"):
            assert name not in found
        else:
            np.testing.assert_array_equal(found[renamed], array, err_msg=name)


def test_names_without_their_prefix_are_the_same(run_quickly, bert, tmp_path):
    assert run_quickly("fetch_pretrained", bert, "with", cwd=tmp_path).returncode == 0
    arrays = load_file(bert / "model.safetensors")
    plain = {name.removeprefix("bert."): array for name, array in arrays.items()}
    save_file(plain, bert / "model.safetensors")
    assert run_quickly("fetch_pretrained", bert, "without", cwd=tmp_path).returncode == 0
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert contents[0] == contents[1]


def test_nothing_is_replaced_unasked_and_a_damaged_source_loses_nothing(run_quickly, bert, tmp_path):
    assert run_quickly("fetch_pretrained", bert, "bert", cwd=tmp_path).returncode == 0
    before = (tmp_path / "bert/model.safetensors").read_bytes()
    done = run_quickly("fetch_pretrained", bert, "bert", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: bert: already there: give another output, or --overwrite to replace it\n"
    (bert / "model.safetensors").write_bytes(before[:100])
    done = run_quickly("fetch_pretrained", bert, "bert", "--overwrite", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "hub/model.safetensors: cannot be read as safetensors" in done.stderr
    assert (tmp_path / "bert/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "failure, says",
    [
        ("ModuleNotFoundError('No module named paddlenlp', name='paddlenlp')", "is not installed"),
        ("ImportError('built for another Python')", "cannot be imported (built for another Python)"),
    ],
)
def test_a_name_without_paddlenlp_is_one_line_that_says_what_to_do(tmp_path, failure, says):
    (tmp_path / "paddlenlp.py").write_text(f"raise {failure}\n")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "fetch_pretrained.py", "some-bert", tmp_path / "bert"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: some-bert: no such folder, and PaddleNLP, which knows names, {says}: pip install -r "
        "requirements.txt with a Python below 3.13, or put vocab.txt, config.json and model.safetensors "
        "into a folder and name that\n"
    )
    assert not (tmp_path / "bert").exists()
