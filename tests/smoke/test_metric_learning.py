"""Metric learning from the command line: softmax, then triplets and quadruplets, on generated pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.picture_files import encoded, noisy, write_folder, write_zip

TASK = {
    "DATASET": {"NAME": "blobs", "IMAGE_DIR": "{split}"},
    "INPUT": {"CROP_SIZE": 32, "RESIZE": 36, "CROP_AREA": [0.5, 1.0]},
    "MODEL": {"NAME": "cnn", "CNN": "resnet18"},
    "LOSS": {"NAME": "softmax", "MARGIN": 0.1},
    "OPTIMIZATION": {
        "OPTIMIZER": "momentum",
        "LR": 0.01,
        "LR_SCHEDULER": "multistep",
        "LR_MILESTONES": [0.8, 1.6],
        "WEIGHT_DECAY": 1e-4,
        "CLIP": "none",
        "BATCH_SIZE": 12,
        "EPOCHS": 2,
    },
    "MONITOR": {"BEST_METRIC": "r1", "PRINT_STEP": 1, "VISUALDL": False},
    "EVAL": {"BATCH_SIZE": 16},
    "RUNTIME": {"DEVICE": "cpu"},
}
CLASSES = {"train": (6, 5), "dev": (4, 3), "test": (3, 4)}


def pictures_of(split: str) -> dict[str, bytes]:
    """Return pictures whose classes have a pattern each, with noise of their own."""
    random = np.random.default_rng(len(split))
    classes, each = CLASSES[split]
    found = {}
    for label in range(classes):
        base = np.asarray(noisy(48, 40, seed=100 * len(split) + label), dtype=float)
        for number in range(each):
            pixels = (base + random.normal(0, 20, base.shape)).clip(0, 255).astype(np.uint8)
            found[f"class {label}/{number}.png"] = encoded(_picture(pixels))
    return found


def _picture(pixels: np.ndarray):
    from PIL import Image

    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    for split in CLASSES:
        write_folder(folder / split, pictures_of(split))
    return folder


@pytest.fixture
def task(data, tmp_path):
    """Return a function that writes the task file of a run, with some of its keys changed."""

    def task(name: str, *overrides: str) -> list[str]:
        path = tmp_path / f"{name}.yaml"
        content = {
            **TASK,
            "DATASET": {**TASK["DATASET"], "DATA_DIR": str(data)},
            "OUTPUT": {"CHECKPOINT_DIR": str(tmp_path), "SAVE_NAME": name},
        }
        path.write_text(yaml.safe_dump(content))
        return ["--cfg_file", str(path), *overrides]

    return task


def good(done) -> str:
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def bad(done) -> str:
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr


def test_both_stages_are_trained_measured_and_written_down(run_quickly, task, data, tmp_path):
    printed = good(run_quickly("train_retrieval", *task("soft")))
    assert "train: 30 pictures of 6 classes; dev: 12 pictures of 4 classes" in printed
    assert "6 classes; loss: softmax" in printed
    assert "validation at step 6: R@1/10/100/1000 " in printed
    assert json.loads((tmp_path / "soft/best/classes.json").read_text())[0] == "class 0"
    origin = f"PRETRAINED.DIR={tmp_path / 'soft/best'}"
    stages = {
        "triplet": ["LOSS.NAME=triplet"],
        "quadruplet": ["LOSS.NAME=quadruplet", "OPTIMIZATION.SAMPLES_PER_CLASS=3"],
        "margin_sample_mining": ["LOSS.NAME=margin_sample_mining", "OPTIMIZATION.SAMPLES_PER_CLASS=2"],
    }
    for name, keys in stages.items():
        printed = good(run_quickly("train_retrieval", *task(name, *keys, origin, "OPTIMIZATION.EPOCHS=1")))
        assert f"loss: {name}" in printed
        printed = good(run_quickly("eval_retrieval", "--cfg_file", tmp_path / name / "config.yaml"))
        assert "test: 12 pictures of 3 classes, searched in each other" in printed
        result = json.loads((tmp_path / name / "eval_test/result.json").read_text())
        assert list(result["metrics"]) == ["r1", "r10", "r100", "r1000", "map_at_r", "r_precision"]
        assert 0 <= result["metrics"]["map_at_r"] <= result["metrics"]["r_precision"] <= 100
        assert result["metrics"]["r1000"] == 100
        assert result["protocol"]["queries"] == 12
        assert result["checkpoint"]["model"] == "cnn"
    runs = [tmp_path / name for name in ("soft", "triplet")]
    good(run_quickly("make_report", *runs, "--out", tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "12 pictures of 3 classes, searched\nin each other" in page
    assert page.count('<td class="name">') == 2
    assert page.count("<figure") >= 3 * 6
    assert "http" not in page


def test_a_stopped_run_goes_on_to_the_same_weights(run_quickly, task, tmp_path):
    keys = ["LOSS.NAME=batch_hard", "OPTIMIZATION.SAMPLES_PER_CLASS=2", "MODEL.CNN_FREEZE_EPOCHS=1"]
    whole = task("whole", *keys, "OPTIMIZATION.LR_SCHEDULER=constant", "MODEL.CNN_DIM=8")
    good(run_quickly("train_retrieval", *whole))
    parts = task("parts", *whole[2:])
    good(run_quickly("train_retrieval", *parts, "OPTIMIZATION.EPOCHS=1"))
    good(run_quickly("train_retrieval", *parts, "--resume"))
    for name in ("model.safetensors", "trainer.safetensors"):
        one, other = (tmp_path / run / "last" / name for run in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()


def test_queries_are_searched_in_another_split(run_quickly, task, data, tmp_path):
    good(run_quickly("train_retrieval", *task("soft", "OPTIMIZATION.EPOCHS=1")))
    evaluate = ["eval_retrieval", "--cfg_file", tmp_path / "soft/config.yaml"]
    printed = good(run_quickly(*evaluate, "EVAL.GALLERY=train", "EVAL.SPLIT=dev"))
    assert "dev: 12 pictures of 4 classes, searched in 30 of train" in printed
    problem = bad(run_quickly(*evaluate, "--save_scores", tmp_path / "s.npz"))
    assert "expected one checkpoint and no --save_scores with an image encoder" in problem
    two = [tmp_path / "soft/best", tmp_path / "soft/last"]
    problem = bad(run_quickly("eval_retrieval", "--checkpoints", *two, "--out", tmp_path / "o"))
    assert "got 2 --checkpoints" in problem


def test_two_processes_measure_what_one_does(run_quickly, run_launched, task, data, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    (tmp_path / "copy/test/class 2/3.png").write_bytes(b"")  # of the last batch, which process 1 reads
    keys = [f"DATASET.DATA_DIR={tmp_path / 'copy'}", "OPTIMIZATION.EPOCHS=1", "INPUT.UNREADABLE=skip"]
    good(run_quickly("train_retrieval", *task("run", *keys)))
    evaluate = ["eval_retrieval", "--cfg_file", tmp_path / "run/config.yaml", "EVAL.BATCH_SIZE=5"]
    good(run_quickly(*evaluate, "--out", tmp_path / "one"))
    done = run_launched(*evaluate, "--out", tmp_path / "two")
    logs = [(tmp_path / "logs" / f"workerlog.{rank}").read_text() for rank in range(2)]
    assert done.returncode == 0, logs
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert two["metrics"] == one["metrics"] and two["protocol"] == one["protocol"]
    assert "class 2/3.png: skipped, unreadable picture: zero bytes" in logs[0]
    assert "R@1" in logs[0] and "R@1" not in logs[1]


def test_unreadable_pictures_are_named_or_skipped(run_quickly, task, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "train/class 0/1.png").write_bytes(b"")
    (copy / "test/class 1/2.png").write_bytes((copy / "test/class 1/2.png").read_bytes()[:500])
    keys = [f"DATASET.DATA_DIR={copy}", "OPTIMIZATION.EPOCHS=1"]
    problem = bad(run_quickly("train_retrieval", *task("refuse", *keys)))
    assert f"error: {copy}/train/class 0/1.png: unreadable picture: zero bytes" in problem
    printed = good(run_quickly("train_retrieval", *task("skip", *keys, "INPUT.UNREADABLE=skip")))
    assert "class 0/1.png: skipped, unreadable picture: zero bytes" in printed
    assert "unreadable pictures skipped: 1" in printed
    printed = good(run_quickly("eval_retrieval", "--cfg_file", tmp_path / "skip/config.yaml"))
    assert "class 1/2.png: skipped, unreadable picture: " in printed
    assert "test: 11 pictures of 3 classes, searched in each other; 1 unreadable" in printed


def test_pictures_in_zip_files_and_labels_in_lists(run_quickly, task, tmp_path):
    folder = tmp_path / "zips"
    folder.mkdir()
    for split in CLASSES:
        pictures = pictures_of(split)
        write_zip(folder / f"{split}.zip", pictures)
        lines = [f"{name} {7 * int(name[6]) + 3}" for name in pictures]
        (folder / f"{split}.txt").write_text("\r\n".join(lines) + "\r\n")
    keys = [f"DATASET.DATA_DIR={folder}", "DATASET.IMAGE_DIR={split}.zip", "DATASET.LABEL_FILE={split}.txt"]
    keys += ["OPTIMIZATION.EPOCHS=1"]
    good(run_quickly("train_retrieval", *task("zips", *keys)))
    assert json.loads((tmp_path / "zips/best/classes.json").read_text())[:2] == ["3", "10"]
    with (folder / "dev.txt").open("a") as file:
        file.write("class 0/none.png 3\n")
    problem = bad(run_quickly("train_retrieval", *task("missing", *keys)))
    assert "dev.txt line 13: no picture for 'class 0/none.png'" in problem


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            ["LOSS.NAME=batch_hard", "OPTIMIZATION.SAMPLES_PER_CLASS=1"],
            "SAMPLES_PER_CLASS: expected 2 or more",
        ),
        (
            ["LOSS.NAME=batch_hard", "OPTIMIZATION.BATCH_SIZE=40", "OPTIMIZATION.SAMPLES_PER_CLASS=2"],
            "6 classes",
        ),
        (["DATASET.IMAGE_DIR=nowhere"], "nowhere: no such folder, expected one with pictures, or a zip file"),
        (["MODEL.CNN_WEIGHTS=nothing.safetensors"], "cannot be read as safetensors"),
        (["PRETRAINED.DIR=nowhere"], "no checkpoint at nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run_quickly, task, tmp_path, keys, problem):
    assert problem in bad(run_quickly("train_retrieval", *task("run", *keys)))
    assert not (tmp_path / "run").exists()


def test_a_class_of_one_picture_cannot_be_sampled(run_quickly, task, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for path in sorted((copy / "train/class 3").iterdir())[1:]:
        path.unlink()
    keys = ["LOSS.NAME=triplet", f"DATASET.DATA_DIR={copy}"]
    problem = bad(run_quickly("train_retrieval", *task("run", *keys)))
    assert "train: class class 3 has one image, expected two or more" in problem


def test_a_dev_split_without_pairs_is_refused_before_training(run_quickly, task, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for path in (copy / "dev").glob("*/[12].png"):
        path.unlink()
    problem = bad(run_quickly("train_retrieval", *task("run", f"DATASET.DATA_DIR={copy}")))
    assert f"{copy}/dev, dev: no picture has another of its class to find, such as one of class 0" in problem
    assert not (tmp_path / "run").exists()
