"""VSRN from the command line: the released layouts, resuming, ensembles, and input that it cannot use."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.runs.checkpoint import read_arrays

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8", "MODEL.CAPTION_DIM=8", "MODEL.CAPTION_WORD_DIM=8"]


@pytest.fixture
def vsrn(tiny_run):
    """Return a function from a folder to the arguments of a small run of VSRN in `<folder>/run`."""

    def vsrn(folder: Path) -> list[str]:
        config = str(ROOT / "configs" / "scenes" / "vsrn.yaml")
        return ["--cfg_file", config, *tiny_run(folder)[2:], *SMALL, "OPTIMIZATION.BATCH_SIZE=60"]

    return vsrn


@pytest.mark.parametrize(("name", "split"), [("f30k", "test"), ("coco", "testall")])
def test_the_released_layout_trains_and_evaluates(run_quickly, write_split, tmp_path, name, split):
    folder = tmp_path / "data" / f"{name}_precomp"
    for part, images in (("train", 8), ("dev", 4), (split, 10)):
        pooled = write_split(folder, part, images, 2048)
        regions = np.repeat(pooled[:, None], 3, axis=1) + np.arange(3)[:, None]
        np.save(folder / f"{part}_ims.npy", regions.astype(np.float16))
    arguments = ["--cfg_file", ROOT / "configs" / name / "vsrn.yaml", *SMALL, "OPTIMIZATION.EPOCHS=1"]
    for tool in ("train_retrieval", "eval_retrieval"):
        done = run_quickly(tool, *arguments, "RUNTIME.DEVICE=cpu", cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    run = tmp_path / "out" / f"{name}_vsrn"
    result = json.loads((run / "eval_test" / "result.json").read_text())
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (10, 50)
    assert result["protocol"]["folds"] == (5 if name == "coco" else 1)
    names = read_arrays(run / "best", "model.safetensors").keys()
    assert "captioner.out.weight" in names, "the decoder is saved"
    assert ("image_encoder.norm._variance" in names) == (name == "f30k")


def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(
    vsrn, run_quickly, run_interrupted, tmp_path
):
    settings = ["MODEL.IMAGE_BATCHNORM=true", "OPTIMIZATION.EMA_DECAY=0.9", "OUTPUT.SAVE_STEP=2"]
    undisturbed = run_quickly("train_retrieval", *vsrn(tmp_path / "a"), *settings)
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = run_interrupted("SIGKILL", 8, "train_retrieval", *vsrn(tmp_path / "b"), *settings)
    assert killed.returncode == -9
    resumed = run_quickly("train_retrieval", *vsrn(tmp_path / "b"), *settings, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for file in ("model.safetensors", "trainer.safetensors"):
        expected, found = (read_arrays(tmp_path / side / "run" / "last", file) for side in "ab")
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_it_joins_an_ensemble_with_a_model_of_mean_pooled_regions(vsrn, tiny_run, run_quickly, tmp_path):
    for folder, arguments in (("vsrn", vsrn(tmp_path / "vsrn")), ("vsepp", tiny_run(tmp_path / "vsepp"))):
        done = run_quickly("train_retrieval", *arguments, "OPTIMIZATION.EPOCHS=1")
        assert done.returncode == 0, folder + done.stderr
    checkpoints = [str(tmp_path / folder / "run" / "best") for folder in ("vsrn", "vsepp")]
    done = run_quickly("eval_retrieval", "--checkpoints", *checkpoints, "--out", tmp_path / "both")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    assert [member["model"] for member in result["checkpoint"]["members"]] == ["vsrn", "vsepp"]
    assert result["swapped"].keys() == {"all", "colours", "sides"}


def test_features_without_regions_are_refused(run_quickly, write_split, tmp_path):
    for part in ("train", "dev", "test"):
        write_split(tmp_path / "data", part, 8, 32)
    arguments = ["DATASET.DATA_DIR=data", "INPUT.IMG_FEATURE_DIM=32", *SMALL]
    done = run_quickly(
        "train_retrieval", "--cfg_file", ROOT / "configs" / "f30k" / "vsrn.yaml", *arguments, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout.count("\n") <= 1
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "train_ims.npy" in done.stderr and "regions" in done.stderr and "vsepp" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_caption_decoder_needs_a_start(run_quickly, tmp_path):
    config = ROOT / "configs" / "f30k" / "vsrn.yaml"
    done = run_quickly("train_retrieval", "--cfg_file", config, "INPUT.VOCAB_LAYOUT=vse", cwd=tmp_path)
    assert done.returncode == 2
    assert "INPUT.VOCAB_LAYOUT" in done.stderr and "LOSS.CAPTION_WEIGHT=0" in done.stderr
