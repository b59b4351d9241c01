"""The floor of a data set from the command line: its numbers, its intervals, and what it cannot be of."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def task(scenes):
    def task(name: str) -> list[str]:
        config = ROOT / "configs" / "scenes" / f"{name}.yaml"
        return ["--cfg_file", str(config), f"DATASET.DATA_DIR={scenes}", "RUNTIME.DEVICE=cpu"]

    return task


def read_split(folder, split):
    regions = np.load(folder / f"{split}_ims.npy").astype(np.float64)
    return regions.mean(axis=1), (folder / f"{split}_caps.txt").read_text().splitlines()


def test_the_floor_is_a_ridge_regression_on_words_that_is_recounted(task, run_quickly, scenes, tmp_path):
    done = run_quickly("measure_floor", *task("vsepp"), "--out", tmp_path / "floor")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    content = json.loads((tmp_path / "floor" / "result.json").read_text())
    penalty = content["checkpoint"]["penalty"]
    on_dev = dict(line.removeprefix("penalty ").split(": mean recall ") for line in penalties(done.stdout))
    assert on_dev[f"{penalty:g}"] == max(on_dev.values(), key=lambda text: float(text.split()[0]))
    assert "mean recall" in done.stdout and "±" in done.stdout
    assert content["certificate"]["metrics"]["mean_recall"]["low"] <= content["metrics"]["mean_recall"]

    features, captions = read_split(scenes, "train")
    words = sorted({word for caption in captions for word in caption.split()})

    def bags(texts):
        return np.array([[word in text.split() for word in words] for text in texts], np.float64)

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1
    targets = np.repeat((features - mean) / deviation, 5, axis=0)
    x = bags(captions)
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(len(words)), centred.T @ targets)
    images, texts = read_split(scenes, "test")
    image, text = (images - mean) / deviation, (bags(texts) - x.mean(axis=0)) @ weights
    scores = image @ text.T / np.linalg.norm(text, axis=1)
    scores /= np.linalg.norm(image, axis=1)[:, None]
    own = scores[np.arange(len(texts)) // 5, np.arange(len(texts))]
    ranks = [(scores[:, caption] >= own[caption] - 1e-6).sum() for caption in range(len(texts))]
    assert content["metrics"]["t2i_meanr"] == pytest.approx(np.mean(ranks), rel=0.02)


def penalties(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("penalty ")]


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("vsrn", [], "MODEL.NAME=vsrn: the floor"),
        ("vsepp", ["MODEL.CNN=resnet18", "INPUT.STANDARDIZE=false"], "MODEL.CNN=resnet18: the floor"),
    ],
)
def test_a_floor_of_regions_or_pictures_is_refused(task, run_quickly, tmp_path, name, options, part):
    done = run_quickly("measure_floor", *task(name), *options, "--out", tmp_path / "floor")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert part in done.stderr and not (tmp_path / "floor").exists()
