"""Several checkpoints are measured as one model, from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.inspection.kept_lists import read_lists
from engine.ranking.metrics import ranks, summarize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(run_quickly, tiny_run, tmp_path_factory) -> Path:
    """Return a folder with runs of two families, `run` of VSE++ and `vse`."""
    folder = tmp_path_factory.mktemp("runs")
    vse = ["--cfg_file", ROOT / "configs/scenes/vse.yaml", *tiny_run(folder)[2:], "OUTPUT.SAVE_NAME=vse"]
    for arguments in (tiny_run(folder), vse):
        done = run_quickly("train_retrieval", *arguments)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder


@pytest.fixture
def measure(runs, run_quickly, tmp_path):
    """Return a function that evaluates checkpoints and returns result.json, the scores and the output."""

    def measure(*arguments: str) -> tuple[dict, np.ndarray, str]:
        done = run_quickly(
            "eval_retrieval",
            *arguments,
            "--out",
            tmp_path / "out",
            "--save_scores",
            tmp_path / "s.npz",
            cwd=runs,
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        with np.load(tmp_path / "s.npz") as saved:
            ids = saved["image_ids"], saved["caption_image_ids"]
            result = json.loads((tmp_path / "out" / "result.json").read_text())
            if result["protocol"]["folds"] == 1:
                counted = ranks(saved["scores"], *ids), ranks(saved["scores"].T, *ids[::-1])
                assert result["metrics"] == pytest.approx(summarize(*counted)), "what was counted is saved"
            return result, saved["scores"], done.stdout

    return measure


def test_scores_are_the_weighted_mean_over_families_and_checkpoints_of_one_run(runs, measure):
    folders = ["run/best", "vse/best", "run/last"]
    alone = [measure("--checkpoints", folder) for folder in folders]
    result, scores, printed = measure(
        "--checkpoints", *folders, "--weights", "1", "2", "5e-1", "EVAL.FOLDS=2"
    )
    mean = (1 * alone[0][1] + 2 * alone[1][1] + 0.5 * alone[2][1]) / 3.5
    np.testing.assert_allclose(scores, mean, atol=1e-6)
    weights = [round(one["weight"], 12) for one in result["checkpoint"]["members"]]
    assert weights == [round(weight / 3.5, 12) for weight in (1, 2, 0.5)]
    for one, folder, (single, _, _) in zip(result["checkpoint"]["members"], folders, alone, strict=True):
        state = json.loads((runs / folder / "state.json").read_text())
        assert one["sha256"] == state["files"]["model.safetensors"]["sha256"]
        assert {key: one[key] for key in ("folder", "sha256", "model", "step")} == single["checkpoint"]
        assert f"{one['weight']:.3f}  {folder}, {one['model']}, step {one['step']}\n" in printed
    assert [one["config"].get("MODEL.NAME") for one in result["checkpoint"]["members"]] == [None, "vse", None]
    assert (result["protocol"]["weights"], result["protocol"]["folds"]) == ("given", 2)
    assert result["config"]["OUTPUT"]["SAVE_NAME"] == "run" and "all" in result["swapped"]
    assert "mean of 3 models, weights given:" in printed and "mean of 2 folds" in printed


def test_one_checkpoint_is_measured_as_by_the_config_of_its_run(runs, measure):
    by_folder, scores, printed = measure("--checkpoints", runs / "vse" / "best", "EVAL.SPLIT=dev")
    by_config, the_same, _ = measure("--cfg_file", "vse/config.yaml", "EVAL.SPLIT=dev")
    assert np.array_equal(scores, the_same) and f"checkpoint: {runs}/vse/best, step" in printed
    assert set(by_config["checkpoint"]) == {"folder", "sha256", "model", "step"}
    assert "weights" not in by_config["protocol"]
    for name in ("metrics", "swapped", "protocol", "folds"):
        assert by_folder[name] == by_config[name]


def test_weights_are_tuned_on_dev_alone(measure):
    both = ["--checkpoints", "run/best", "vse/best"]
    result, _, printed = measure(*both, "--tune_weights")
    assert (result["protocol"]["split"], result["protocol"]["weights"]) == ("test", "tuned on dev")
    tuning = result["checkpoint"]["tuning"]
    assert (tuning["split"], tuning["metric"]) == ("dev", "rsum") and tuning["tuned"] >= tuning["equal"]
    assert (
        f"rsum on dev: {tuning['equal']:.2f} with equal weights, {tuning['tuned']:.2f} with these" in printed
    )
    weights = [str(one["weight"]) for one in result["checkpoint"]["members"]]
    on_dev = {
        "tuned": measure(*both, "EVAL.SPLIT=dev", "--weights", *weights)[0],
        "equal": measure(*both, "EVAL.SPLIT=dev")[0],
    }
    for name, found in on_dev.items():
        assert found["metrics"]["rsum"] == pytest.approx(tuning[name])
    assert on_dev["equal"]["protocol"]["weights"] == "equal"
    result, _, _ = measure(*both, "--tune_weights", "EVAL.SPLIT=dev")
    assert result["protocol"]["weights"] == "tuned on dev, the split that is evaluated"
    assert result["metrics"]["rsum"] == pytest.approx(tuning["tuned"])


def test_two_processes_measure_what_one_does(measure, run_launched, runs, tmp_path):
    both = ["--checkpoints", "run/best", "vse/best", "--tune_weights"]
    alone, scores, _ = measure(*both)
    together = "--out", tmp_path / "new", "--save_scores", tmp_path / "new.npz"
    done = run_launched("eval_retrieval", *both, *together, cwd=runs)
    logs = [(tmp_path / "logs" / f"workerlog.{rank}").read_text() for rank in range(2)]
    assert done.returncode == 0, logs
    found = json.loads((tmp_path / "new" / "result.json").read_text())
    for name in ("metrics", "swapped", "protocol", "checkpoint"):
        assert found[name] == alone[name]
    with np.load(tmp_path / "new.npz") as saved:
        np.testing.assert_allclose(saved["scores"], scores, atol=1e-6)
    assert "R@1" in logs[0] and "R@1" not in logs[1]


def test_two_processes_share_the_tiles_of_one_model(run_quickly, run_launched, runs, tmp_path):
    command = "eval_retrieval", "--cfg_file", "vse/config.yaml", "EVAL.FOLDS=2", "EVAL.BLOCK_SIZE=16"
    found = []
    for name, start in (("one", run_quickly), ("two", run_launched)):
        done = start(*command, "--out", tmp_path / name, cwd=runs)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "lists.npz",
            "ranks.npz",
            "result.json",
        ]
        found.append(json.loads((tmp_path / name / "result.json").read_text()))
    for name in ("metrics", "folds", "swapped", "protocol", "checkpoint"):
        assert found[1][name] == found[0][name]
    lists = [read_lists(tmp_path / name / "lists.npz") for name in ("one", "two")]
    for name in ("i2t", "t2i", "i2t_scores", "t2i_scores", "right_scores"):
        np.testing.assert_array_equal(getattr(lists[1], name), getattr(lists[0], name))


BOTH = ["--checkpoints", "run/best", "vse/best", "--out", "new"]
MISTAKES = {
    "a weight too few": ([*BOTH, "--weights", "1"], ["--weights", "each of the 2 checkpoints, got 1\n"]),
    "a negative weight": ([*BOTH, "--weights", "0.5", "-0.5"], ["--weights", "above 0", "got 0.5 -0.5\n"]),
    "no weight": ([*BOTH, "--weights", "EVAL.FOLDS=2"], ["--weights", "got none"]),
    "a weight of nothing": ([*BOTH, "--weights", "0", "1"], ["above 0", "got 0 1\n"]),
    "a weight that is none": ([*BOTH, "--weights", "nan", "half"], ["a number above 0", "got nan half\n"]),
    "weights given and tuned": ([*BOTH, "--tune_weights", "--weights", "1", "1"], ["not allowed with"]),
    "weights of one": (
        ["--cfg_file", "run/config.yaml", "--weights", "1"],
        ["several --checkpoints, got one"],
    ),
    "one to tune": (["--checkpoints", "run/best", "--tune_weights"], ["several --checkpoints, got one"]),
    "no place for the result": (BOTH[:3], ["expected --out DIR", "got none"]),
    "two configurations": (
        [*BOTH, "--cfg_file", "run/config.yaml"],
        ["--cfg_file or --checkpoints, got both"],
    ),
    "a checkpoint twice": (
        [*BOTH, "EVAL.CHECKPOINT_DIR=run/last"],
        ["--checkpoints or EVAL.CHECKPOINT_DIR, got both"],
    ),
    "a run for a checkpoint": ([*BOTH, "--checkpoints", "run/best", "vse"], ["vse is a run", "vse/best\n"]),
    "a folder outside a run": (
        [*BOTH, "--checkpoints", "run/best", "nowhere/best"],
        ["got nowhere/best: there is no nowhere/config.yaml"],
    ),
    "no checkpoint": ([*BOTH, "--checkpoints", "run/best", "run/worst"], ["no checkpoint at run/worst"]),
    "a misspelt key": ([*BOTH, "EVAL.SPLITS=dev"], ["EVAL.SPLITS", "did you mean EVAL.SPLIT?"]),
    "too many folds": ([*BOTH, "EVAL.FOLDS=21"], ["EVAL.FOLDS", "20 in test", "got 21"]),
    "another image": (
        ["--checkpoints", "run/best", "renamed/best", "--out", "new"],
        ["renamed/best: image 3 of test is 'elsewhere', for run/best it is 'test_000002'", "DATASET"],
    ),
    "another caption": (
        ["--checkpoints", "run/best", "reworded/best", "--out", "new"],
        ["reworded/best: caption 7 of test is 'a dog', for run/best it is '", "DATASET"],
    ),
    "another number of images": (
        ["--checkpoints", "run/best", "shortened/best", "--out", "new"],
        [
            "shortened/best: 19 images and 95 captions in test, 20 images and 100 captions for run/best",
            "DATASET",
        ],
    ),
}


def replace_line(number: int, text: str):
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[number - 1] = text
        path.write_text("\n".join(lines) + "\n")

    return change


@pytest.fixture(scope="module")
def misfits(runs, scenes, tmp_path_factory) -> Path:
    """Add to `runs` copies of `vse` whose data differ from the others'."""
    changes = {
        "renamed": {"test_ids.txt": replace_line(3, "elsewhere")},
        "reworded": {"test_caps.txt": replace_line(7, "a dog")},
        "shortened": {
            "test_ids.txt": lambda path: path.write_text("".join(path.open().readlines()[:19])),
            "test_caps.txt": lambda path: path.write_text("".join(path.open().readlines()[:95])),
            "test_ims.npy": lambda path: np.save(path, np.load(path)[:19]),
        },
    }
    for name, files in changes.items():
        data = tmp_path_factory.mktemp(name)
        for path in scenes.glob("test_*"):
            shutil.copy(path, data)
        for file, change in files.items():
            change(data / file)
        shutil.copytree(runs / "vse", runs / name)
        config = runs / name / "config.yaml"
        config.write_text(config.read_text().replace(str(scenes), str(data)))
    return runs


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_no_result(misfits, run_quickly, name):
    arguments, says = MISTAKES[name]
    done = run_quickly("eval_retrieval", *arguments, cwd=misfits)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in says), done.stderr
    assert not list(misfits.rglob("result.json"))


def test_members_may_take_other_features_of_the_same_images(measure, misfits, scenes, tmp_path):
    """Here one run has regions, which it averages, and the other the averages."""
    data = tmp_path / "pooled"
    shutil.copytree(scenes, data, ignore=shutil.ignore_patterns("images"))
    for path in data.glob("*_ims.npy"):
        np.save(path, np.load(path).astype(np.float32).mean(axis=1))
    shutil.copytree(misfits / "vse", tmp_path / "pooled_run")
    config = tmp_path / "pooled_run" / "config.yaml"
    config.write_text(config.read_text().replace(str(scenes), str(data)))
    _, expected, _ = measure("--checkpoints", "run/best", "vse/best")
    _, scores, _ = measure("--checkpoints", "run/best", tmp_path / "pooled_run" / "best")
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_bank_changes_the_scores_of_an_image_and_of_a_caption_each_by_one_number(
    runs, measure, run_quickly
):
    members = "--checkpoints", "run/best", "vse/best"
    _, plain, _ = measure(*members)
    result, scores, printed = measure(*members, "EVAL.QUERY_BANK=train", "EVAL.QUERY_BANK_TEMPERATURE=0.1")
    lost = plain.astype(np.float64) - scores
    parts = lost.mean(axis=1, keepdims=True) + lost.mean(axis=0) - lost.mean()
    np.testing.assert_allclose(lost, parts, atol=1e-6)  # cosines are of the order of 1
    assert lost.std(axis=0).max() > 1e-3 < lost.std(axis=1).max()
    bank = result["protocol"]["query_bank"]
    assert bank["split"] == "train" and bank["temperature"] == 0.1
    assert (
        f"scores normalised by {bank['images']} images and {bank['sentences']} sentences of train" in printed
    )
    refused = run_quickly(
        "eval_retrieval", "--cfg_file", runs / "run", "EVAL.QUERY_BANK=dev", "EVAL.SPLIT=dev"
    )
    assert refused.returncode == 2 and "EVAL.QUERY_BANK: expected another split" in refused.stderr
