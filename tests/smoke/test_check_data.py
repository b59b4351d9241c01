"""tools/check_data.py says all that is wrong with a folder, before training does, and exits with 2."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def precomp(tmp_path, write_split):
    for split in ("train", "dev", "test"):
        write_split(tmp_path / "data", split, images=6, width=8, ids=True)
    return tmp_path


def check(run_quickly, folder, *words):
    config = "--cfg_file", ROOT / "configs" / "f30k" / "vsepp.yaml"
    keys = "DATASET.DATA_DIR=data", "DATASET.NAME=mine", "INPUT.IMG_FEATURE_DIM=8"
    return run_quickly("check_data", *config, *keys, *words, cwd=folder)


def test_a_whole_folder_passes_and_leaves_nothing_behind(run_quickly, precomp):
    before = sorted(precomp.rglob("*"))
    done = check(run_quickly, precomp)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 6 images (8 features, float32), 30 captions, 5 an image\n" in done.stdout
    assert done.stdout.endswith("data: nothing is wrong\n")
    assert sorted(precomp.rglob("*")) == before


def test_all_that_is_wrong_is_a_line_each(run_quickly, precomp):
    data = precomp / "data"
    rows = np.load(data / "train_ims.npy")
    rows[2] = np.nan
    np.save(data / "train_ims.npy", rows)
    (data / "dev_caps.txt").write_text("a dog\n" * 29)
    (data / "test_ids.txt").write_bytes((data / "train_ids.txt").read_bytes())
    done = check(run_quickly, precomp)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["wrong"] * 3 + ["error"]
    assert "data/train_ims.npy: 1 rows with NaN or infinity: 3" in lines[0]
    assert "data/dev_caps.txt: 29 captions for the 6 images" in lines[1]
    assert "train and test: 6 images are in both: train_0.jpg, train_1.jpg, " in lines[2]
    assert lines[2].endswith("train_4.jpg and 1 more") and lines[3] == "error: data: wrong lines: 3"


def test_values_may_be_skipped(run_quickly, precomp):
    np.save(precomp / "data" / "dev_ims.npy", np.full((6, 8), np.nan, np.float32))
    assert check(run_quickly, precomp).returncode == 2
    assert check(run_quickly, precomp, "--skip_values").returncode == 0
