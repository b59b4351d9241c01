"""BERT computes what PaddleNLP's does, from weights that tools/fetch_pretrained.py brought.

PaddleNLP imports Hugging Face's `datasets`, a name that this repository takes, so it runs in its own process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from engine.weights.pretrained import load_pretrained, open_pretrained
from models.oscar import Oscar
from tests.forks import run_forked

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("paddlenlp_bert.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("paddlenlp") is None, reason="PaddleNLP is not installed"
)


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a BERT of PaddleNLP in both of its formats, and what it computes."""
    folder = tmp_path_factory.mktemp("paddlenlp")
    done = run(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_rows_and_pooled_rows_agree(folder, tmp_path) -> None:
    done = run_forked(ROOT / "tools" / "fetch_pretrained.py", folder / "pdparams", tmp_path / "bert")
    assert (done.returncode, done.stderr) == (0, "")
    pretrained = open_pretrained(tmp_path / "bert")
    model = Oscar(pretrained.shape(region_dim=0))
    assert load_pretrained(model, pretrained) == ["classifier"]
    model.eval()
    golden = np.load(folder / "golden.npz")
    batch = {name: paddle.to_tensor(golden[name]) for name in ("token_ids", "segment_ids", "text_len")}
    rows, sequences = model.bert.encode(batch)
    real = np.arange(12) < golden["text_len"][:, None]
    np.testing.assert_allclose(sequences.pad(rows).numpy()[real], golden["sequence"][real], atol=1e-5)
    np.testing.assert_allclose(model.bert(batch).numpy(), golden["pooled"], atol=1e-5)
    assert np.abs(golden["pooled"]).max() > 0.5


def test_both_formats_of_paddlenlp_and_its_cache_bring_the_same(folder, tmp_path) -> None:
    """A name that PaddleNLP has downloaded before needs no network."""
    cached = tmp_path / "home" / "models" / "some-bert"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(folder / "pdparams")
    found = []
    for number, source in enumerate((folder / "pdparams", folder / "safetensors", "some-bert")):
        output = tmp_path / f"bert{number}"
        words = ROOT / "tools" / "fetch_pretrained.py", source, output
        paths = {"PPNLP_HOME": str(tmp_path / "home")}
        done = run(*words, **paths) if source == "some-bert" else run_forked(*words)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout == f"{output}: 3 layers of 24, 40 words, 55 tensors\n"
        assert open_pretrained(output).shape(0).num_heads == 4
        found.append(load_file(output / "model.safetensors"))
    for arrays in found[1:]:
        assert arrays.keys() == found[0].keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, found[0][name], err_msg=name)


def test_a_name_that_cannot_be_brought_is_one_line(tmp_path) -> None:
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    (tmp_path / "home").mkdir()
    done = run(
        ROOT / "tools" / "fetch_pretrained.py",
        "no-such-bert",
        tmp_path / "bert",
        PPNLP_HOME=str(tmp_path / "home"),
        **offline,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: no-such-bert: no such folder, and PaddleNLP cannot bring it: ")
    assert not (tmp_path / "bert").exists()
