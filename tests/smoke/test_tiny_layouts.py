"""The task files of Flickr8K, Flickr30K and COCO train and evaluate on small folders of the same layouts."""

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RECALLS = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
METRICS = {*RECALLS, "i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr", "rsum", "mean_recall"}
WIDTH = 4096  # of VGG19's last layer
# What a test has no time for. The width of a word, the batch and the rest are those of the task file.
SMALLER = ["MODEL.EMBED_DIM=32", "OPTIMIZATION.EPOCHS=1", "RUNTIME.DEVICE=cpu"]


@pytest.fixture(scope="module")
def data(write_split, tmp_path_factory) -> Path:
    """Return a folder with `data/f8k_precomp` and its sisters, each in another of the layouts in use."""
    root = tmp_path_factory.mktemp("layouts")
    layouts = {
        "f8k": ("test", {}),  # a row for each image
        "f30k": ("test", {"row_per_caption": True}),  # a row for each caption, as in the release of VSE++
        "coco": ("testall", {"ids": True}),  # a row for each image, and the images' names
    }
    for name, (test, layout) in layouts.items():
        for split, images in (("train", 8), ("dev", 4), (test, 10)):
            write_split(root / "data" / f"{name}_precomp", split, images, WIDTH, **layout)
    return root


def check_contract(run: Path, split: str = "test") -> dict:
    """Check what scripts rely on in a run's folder and its result; return the result."""
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "log.jsonl", "best", "last"}
    result = json.loads((run / f"eval_{split}" / "result.json").read_text())
    metrics = result["metrics"]
    assert set(metrics) == METRICS
    assert all(0 <= metrics[name] <= 100 for name in RECALLS)
    assert metrics["rsum"] == pytest.approx(sum(metrics[name] for name in RECALLS))
    assert metrics["mean_recall"] == pytest.approx(metrics["rsum"] / 6)
    assert all(
        metrics[f"{direction}_{name}"] >= 1 for direction in ("i2t", "t2i") for name in ("medr", "meanr")
    )
    weights = (run / "best" / "model.safetensors").read_bytes()
    assert run.match(result["checkpoint"]["folder"].removesuffix("/best"))
    assert result["checkpoint"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert {"python", "paddle", "numpy"} <= set(result["versions"])
    given = yaml.safe_load((run / "config.yaml").read_text())
    assert {**result["config"], "DATASET": None, "OUTPUT": None} == {**given, "DATASET": None, "OUTPUT": None}
    for section, path in (("DATASET", "DATA_DIR"), ("OUTPUT", "CHECKPOINT_DIR")):  # a run's paths are whole
        assert given[section][path].endswith(result["config"][section][path])
        assert {**result["config"][section], path: None} == {**given[section], path: None}
    assert result["protocol"]["tie_rule"] == "against"
    return result


@pytest.mark.parametrize("model", ["vse", "vsepp"])
@pytest.mark.parametrize(
    ("name", "split", "folds"), [("f8k", "test", 1), ("f30k", "test", 1), ("coco", "testall", 5)]
)
def test_a_task_file_of_the_originals_trains_and_evaluates(data, run_quickly, name, split, folds, model):
    arguments = ["--cfg_file", ROOT / "configs" / name / f"{model}.yaml", *SMALLER]
    trained = run_quickly("train_retrieval", *arguments, cwd=data)
    assert trained.returncode == 0 and trained.stderr == "", trained.stderr
    run = data / "out" / f"{name}_{model}"
    steps = json.loads((run / "last" / "state.json").read_text())["progress"]["step"]
    assert steps == (2 if model == "vse" else 1), "VSE trains on captions of one length at a time"

    evaluated = run_quickly("eval_retrieval", *arguments, cwd=data)
    assert evaluated.returncode == 0 and evaluated.stderr == "", evaluated.stderr
    result = check_contract(run)
    protocol = result["protocol"]
    assert (protocol["split"], protocol["folds"]) == (split, folds)
    assert (protocol["images"], protocol["captions"]) == (10, 50), "equal rows in succession are one image"
    assert protocol["fold_images"] == [10 // folds] * folds
    if folds == 1:
        assert all(result["metrics"][f"{direction}_medr"] % 1 == 0 for direction in ("i2t", "t2i"))
    else:
        for metric, value in result["metrics"].items():
            assert value == pytest.approx(np.mean([fold[metric] for fold in result["folds"]])), metric
    assert re.search(r"image to text +\d", evaluated.stdout) and "ties against: rank = " in evaluated.stdout


GENERAL = ["--cfg_file", ROOT / "configs" / "f8k" / "vsepp.yaml", *SMALLER]
SENTENCES = [
    f"a {colour} dog, on the {place}" for colour in ("red", "wet") for place in ("grass", "sea", "hill")
]


def run_with(run_quickly, folder: Path, *options: str) -> dict:
    """Train and evaluate on captions of another kind in `folder`; return the result."""
    arguments = [*GENERAL, f"DATASET.DATA_DIR={folder}", f"OUTPUT.CHECKPOINT_DIR={folder}", *options]
    arguments += ["OUTPUT.SAVE_NAME=run", "INPUT.IMG_FEATURE_DIM=16", "INPUT.VOCAB_THRESHOLD=1"]
    for tool in ("train_retrieval", "eval_retrieval"):
        done = run_quickly(tool, *arguments)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return check_contract(folder / "run")


def test_karpathys_json_is_trained_on_with_restval(run_quickly, write_split, tmp_path):
    """Rows are found by name, in any order; images have any number of captions."""
    images = []
    for split, count in (("train", 5), ("restval", 3), ("val", 4), ("test", 6)):
        for number in range(count):
            sentences = [{"raw": sentence} for sentence in SENTENCES[: 2 + number % 3]]
            images.append({"filename": f"{split}_{number}.jpg", "split": split, "sentences": sentences})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "tiny"}))
    for split, others in (("train", ["restval"]), ("val", []), ("test", [])):
        names = [image["filename"] for image in reversed(images) if image["split"] in (split, *others)]
        write_split(tmp_path, split, len(names), 16)
        (tmp_path / f"{split}_caps.txt").unlink()
        (tmp_path / f"{split}_ids.txt").write_text("\n".join(names) + "\n")
    options = ["DATASET.FORMAT=karpathy", "DATASET.CAPTION_FILE=dataset.json", "DATASET.USE_RESTVAL=true"]
    result = run_with(run_quickly, tmp_path, *options, "DATASET.DEV=val")
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (6, 2 * (2 + 3 + 4))


def test_a_csv_file_is_trained_on(run_quickly, write_split, tmp_path):
    """Rows follow the file's order where no names are given; captions may hold commas."""
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for split, count in (("train", 5), ("dev", 3), ("test", 4)):
            write_split(tmp_path, split, count, 16)
            (tmp_path / f"{split}_caps.txt").unlink()
            for number in range(count):
                for sentence in SENTENCES[: 1 + number]:
                    writer.writerow([f"{split}_{number}.png", sentence, split])
    result = run_with(run_quickly, tmp_path, "DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=captions.csv")
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (4, 1 + 2 + 3 + 4)
