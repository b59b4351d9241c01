"""A cross encoder measured from the command line: alone, killed, resumed, shared, behind a dual encoder."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.forks import Fork

ROOT = Path(__file__).resolve().parents[2]
SLOWLY = ["EVAL.BLOCK_PAIRS=50", "EVAL.BATCH_TOKENS=100"]


@pytest.fixture(scope="module")
def runs(tiny_run, scenes, run_quickly, tmp_path_factory) -> Path:
    """Return a folder of runs on Scenes: `run`, a small VSE++, and `cross`, a small Oscar."""
    folder = tmp_path_factory.mktemp("runs")
    cross = [
        *("--cfg_file", ROOT / "configs" / "scenes" / "oscar.yaml", f"DATASET.DATA_DIR={scenes}"),
        *(f"OUTPUT.CHECKPOINT_DIR={folder}", "OUTPUT.SAVE_NAME=cross", "RUNTIME.DEVICE=cpu"),
        *("MODEL.BERT_DIM=16", "MODEL.BERT_INNER_DIM=32", "MODEL.BERT_HEADS=2", "MODEL.BERT_LAYERS=2"),
        *(
            "MODEL.BERT_DEVIATION=0.3",  # scores far apart without much training
            "OPTIMIZATION.EPOCHS=1",
            "MONITOR.DEV_IMAGES=4",
        ),
    ]
    for arguments in (tiny_run(folder), cross):
        trained = run_quickly("train_retrieval", *arguments)
        assert trained.returncode == 0, trained.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(runs, run_quickly) -> dict:
    """Return the result of the whole test split, with `scores` [images, captions]."""
    done = run_quickly(
        "eval_retrieval", *of_run(runs, "cross", runs / "full"), *SLOWLY, "--save_scores", runs / "all.npz"
    )
    assert done.returncode == 0, done.stderr
    assert "oscar scores every image with every sentence" in done.stdout and "pairs/s" in done.stdout
    with np.load(runs / "all.npz") as saved:
        return read_result(runs / "full") | {"scores": saved["scores"]}


def of_run(runs: Path, name: str, out: Path) -> list:
    return ["--cfg_file", runs / name / "config.yaml", "--out", out]


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "scores").glob("block_*.safetensors"))


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr, done.stderr


def test_all_pairs_are_scored_and_nothing_is_left_behind(runs, undisturbed):
    assert undisturbed["protocol"]["pairs_scored"] == 20 * undisturbed["protocol"]["distinct_sentences"]
    assert undisturbed["scores"].shape == (20, 100) and len(np.unique(undisturbed["scores"])) > 1000
    assert set(undisturbed["swapped"]) == {"all", "colours", "sides"}
    assert sorted(path.name for path in (runs / "full").iterdir()) == [
        "lists.npz",
        "ranks.npz",
        "result.json",
    ]
    assert undisturbed["checkpoint"]["model"] == "oscar"


@pytest.fixture(scope="module")
def killed(runs, undisturbed) -> Path:
    """Return the --out folder of an evaluation that SIGKILL met among its blocks."""
    out = runs / "killed"
    command = [ROOT / "tools" / "eval_retrieval.py", *of_run(runs, "cross", out), *SLOWLY]
    process = Fork(command, ROOT, runs / "out", runs / "errors")
    while len(shards(out)) < 3:
        assert process.poll() is None, (runs / "errors").read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(shards(out)) < 40 and not (out / "result.json").exists()
    return out


@pytest.fixture
def left(killed, tmp_path) -> Path:
    """Return a copy of what the killed evaluation left."""
    return Path(shutil.copytree(killed, tmp_path / "left"))


def test_a_killed_evaluation_goes_on_to_the_same_numbers(runs, left, run_quickly, undisturbed):
    before = len(shards(left))
    done = run_quickly("eval_retrieval", *of_run(runs, "cross", left), *SLOWLY)
    assert done.returncode == 0, done.stderr
    assert f"2,000 pairs to score, {50 * before:,} are there from before" in done.stdout
    assert read_result(left)["metrics"] == undisturbed["metrics"]
    names = sorted(path.name for path in left.iterdir())
    assert names == ["lists.npz", "ranks.npz", "result.json"]


def test_scores_stay_until_the_result_is_written(runs, left, run_quickly, undisturbed):
    (left / "result.json").mkdir()
    again = ("eval_retrieval", *of_run(runs, "cross", left), *SLOWLY)
    refused(run_quickly(*again), "cannot write", "result.json")
    assert len(shards(left)) == 40
    (left / "result.json").rmdir()
    done = run_quickly(*again)
    assert done.returncode == 0 and "to score" not in done.stdout, done.stderr
    assert read_result(left)["metrics"] == undisturbed["metrics"] and not (left / "scores").exists()


def test_a_damaged_shard_is_named_and_deleting_it_is_enough(runs, left, run_quickly, undisturbed):
    broken = shards(left)[1]
    broken.write_bytes(broken.read_bytes()[:-30])
    again = ("eval_retrieval", *of_run(runs, "cross", left), *SLOWLY)
    kept = len(shards(left))
    refused(run_quickly(*again), broken.name, "damaged scores", "delete this file")
    assert len(shards(left)) == kept
    broken.unlink()
    done = run_quickly(*again)
    assert done.returncode == 0 and f"{50 * (kept - 1):,} are there from before" in done.stdout, done.stderr
    assert read_result(left)["metrics"] == undisturbed["metrics"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("EVAL.BLOCK_PAIRS=60", "the scores of other pairs"),
        ("EVAL.SPLIT=dev", "the scores of other data"),
        ("INPUT.ATT_MASK_TYPE=CR", "the scores of another configuration of the model"),
    ],
)
def test_scores_of_another_evaluation_are_refused(runs, left, run_quickly, change, what):
    kept = shards(left)
    done = run_quickly("eval_retrieval", *of_run(runs, "cross", left), *SLOWLY, change)
    refused(done, what, f"delete the folder {left / 'scores'}")
    assert shards(left) == kept


def test_two_processes_share_what_a_killed_one_left(runs, left, run_launched, tmp_path, undisturbed):
    before = 50 * len(shards(left))
    done = run_launched("eval_retrieval", *of_run(runs, "cross", left), *SLOWLY)
    logs = [(tmp_path / "logs" / f"workerlog.{rank}").read_text() for rank in range(2)]
    assert done.returncode == 0, logs
    assert read_result(left)["metrics"] == undisturbed["metrics"]
    assert f"{before:,} are there from before" in logs[0]
    assert "in each of 2 processes" in logs[0] and "R@1" in logs[0] and "pairs" not in logs[1]


def test_candidates_of_an_index_file(runs, scenes, run_quickly, tmp_path, undisturbed):
    ids = (scenes / "test_ids.txt").read_text().split()
    lists = {name: [[other, 0] for other in ids] for name in ids}  # each image's first caption
    (tmp_path / "index.json").write_text(json.dumps(lists))
    options = ["EVAL.EVAL_CROSS_IMAGE=false", f"EVAL.EVAL_CAPTION_INDEX_FILE={tmp_path / 'index.json'}"]
    options += ["MONITOR.DEV_IMAGES=0"]
    done = run_quickly("eval_retrieval", *of_run(runs, "cross", tmp_path), *options)
    assert done.returncode == 0 and "text to image" not in done.stdout, done.stderr
    scores = undisturbed["scores"][:, ::5]
    ranks = [(row >= row[image]).sum() - 1 for image, row in enumerate(scores)]
    assert read_result(tmp_path)["metrics"]["i2t_meanr"] == pytest.approx(np.mean(ranks) + 1)
    lists[ids[3]][7] = [ids[0], 5]
    (tmp_path / "index.json").write_text(json.dumps(lists))
    refused(
        run_quickly("eval_retrieval", *of_run(runs, "cross", tmp_path), *options),
        f"key {ids[3]!r}, entry 8 is [{ids[0]!r}, 5], but that image has 5 captions",
    )


def test_two_lines_of_yaml_re_rank(runs, run_quickly, tmp_path, undisturbed):
    config = (runs / "run" / "config.yaml").read_text()
    task = config.replace("RERANK_DIR: ''", f"RERANK_DIR: {runs / 'cross' / 'best'}")
    task = task.replace("RERANK_K: 20", "RERANK_K: 1000")
    assert task != config
    (tmp_path / "task.yaml").write_text(task)
    done = run_quickly("eval_retrieval", "--cfg_file", tmp_path / "task.yaml", "--out", tmp_path / "out")
    assert done.returncode == 0 and "re-ranked by" in done.stdout, done.stderr
    result = read_result(tmp_path / "out")
    rerank = result["rerank"]
    assert rerank["metrics"] == undisturbed["metrics"], "lists of all images and captions"
    assert rerank["pairs_scored"] == rerank["all_pairs"] == undisturbed["protocol"]["pairs_scored"]
    assert [point["k"] for point in rerank["curve"]] == [1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 100]
    assert rerank["swapped"] == undisturbed["swapped"] != result["swapped"]
    short = run_quickly(
        "eval_retrieval",
        *of_run(runs, "run", tmp_path / "short"),
        *(f"EVAL.RERANK_DIR={runs / 'cross' / 'best'}", "EVAL.RERANK_K=8"),
    )
    assert short.returncode == 0, short.stderr
    curve = read_result(tmp_path / "short")["rerank"]["curve"]
    assert curve == rerank["curve"][:5] and curve[-1]["pairs_scored"] < rerank["all_pairs"]
    assert read_result(tmp_path / "short")["metrics"] == result["metrics"]
    again = read_result(tmp_path / "short" / "reranked")
    assert again["metrics"] == curve[-1]["metrics"]
    with np.load(tmp_path / "short" / "reranked" / "ranks.npz") as ranks:
        assert again["metrics"]["t2i_r5"] == pytest.approx(100 * np.mean(ranks["t2i_against"] < 5))
    both = run_quickly("compare_results", tmp_path / "short" / "reranked", tmp_path / "short")
    assert both.returncode == 0 and "on rsum: " in both.stdout, both.stderr


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("run", ["EVAL.RERANK_DIR={runs}/run/best"], ["expected the checkpoint of a cross encoder", "vsepp"]),
        ("run", ["EVAL.RERANK_DIR={runs}/cross"], ["EVAL.RERANK_DIR: ", "is a run; name a checkpoint of it"]),
        ("run", ["EVAL.RERANK_DIR={runs}/nowhere/best"], ["EVAL.RERANK_DIR: ", "nowhere"]),
        ("cross", ["EVAL.RERANK_DIR={runs}/cross/best"], ["expected with the run of a dual encoder"]),
        (
            "run",
            ["EVAL.RERANK_DIR={runs}/cross/best", "--save_scores", "{runs}/both.npz"],
            ["--save_scores: expected scores of one model"],
        ),
    ],
)
def test_what_cannot_be_re_ranked_is_one_line(runs, run_quickly, tmp_path, name, options, parts):
    words = [word.format(runs=runs) for word in options]
    refused(run_quickly("eval_retrieval", *of_run(runs, name, tmp_path), *words), *parts)
    assert not list(tmp_path.iterdir())


def test_an_ensemble_is_of_dual_encoders(runs, run_quickly, tmp_path):
    folders = [runs / "run" / "best", runs / "cross" / "best"]
    refused(
        run_quickly("eval_retrieval", "--checkpoints", *folders, "--out", tmp_path / "out"),
        "expected dual encoders",
        "EVAL.RERANK_DIR",
    )
    done = run_quickly(
        *("eval_retrieval", "--checkpoints", folders[0], runs / "run" / "last", "--out", tmp_path / "two"),
        f"EVAL.RERANK_DIR={folders[1]}",
    )
    assert done.returncode == 0 and read_result(tmp_path / "two")["rerank"]["k"] == 20, done.stderr


def test_other_images_cannot_be_re_ranked(runs, run_quickly, run_tool, tmp_path):
    made = run_tool("make_scenes", "--out", tmp_path / "data", "--train", "8", "--dev", "4", "--test", "12")
    assert made.returncode == 0
    done = run_quickly(
        "eval_retrieval",
        *of_run(runs, "run", tmp_path / "out"),
        *(f"DATASET.DATA_DIR={tmp_path / 'data'}", f"EVAL.RERANK_DIR={runs / 'cross' / 'best'}"),
    )
    refused(done, "both models need the same images and captions in one order")


def test_a_search_puts_its_short_list_in_order(runs, run_quickly, tmp_path, undisturbed):
    options = [
        *of_run(runs, "run", tmp_path),
        f"EVAL.RERANK_DIR={runs / 'cross' / 'best'}",
        "EVAL.RERANK_K=20",
    ]
    done = run_quickly("search_retrieval", *options, "--image", "test_000003", "--top_k", "4")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^ +\d+  ([\d.]+)  .*\(before: (\d+)\)$", done.stdout, re.MULTILINE)
    scores = [float(score) for score, _ in found]
    assert (
        len(found) == 4 and scores == sorted(scores, reverse=True) and len({place for _, place in found}) == 4
    )
    assert all(np.isclose(undisturbed["scores"][3], score, atol=1e-4).any() for score in scores)
    everything = run_quickly("search_retrieval", *options, "--text", "a red circle", "--top_k", "30")
    assert everything.returncode == 0 and everything.stdout.count("(before: ") == 20
    assert "in the order of" in (tmp_path / "hits.html").read_text()
    np.save(tmp_path / "picture.npy", np.ones((3, 64), np.float32))
    refused(
        run_quickly("search_retrieval", *options, "--image", tmp_path / "picture.npy"),
        "expected an image of the split with EVAL.RERANK_DIR",
    )


@pytest.mark.parametrize(
    ("tool", "words"), [("search_retrieval", ["--text", "a dog"]), ("visualize", ["--image", "test_000003"])]
)
def test_a_cross_encoder_alone_has_nothing_to_search(runs, run_quickly, tmp_path, tool, words):
    done = run_quickly(tool, *of_run(runs, "cross", tmp_path / "out"), *words)
    refused(done, "expected a dual encoder", f"EVAL.RERANK_DIR={runs / 'cross' / 'best'}")


def test_a_report_shows_what_was_re_ranked(runs, run_quickly, tmp_path):
    config = ["--cfg_file", runs / "run" / "config.yaml"]
    done = run_quickly("eval_retrieval", *config, f"EVAL.RERANK_DIR={runs / 'cross' / 'best'}")
    assert done.returncode == 0, done.stderr
    for folds, shown in ((1, True), (2, False)):  # a result of other folds is not shown
        config = (runs / "run" / "config.yaml").read_text()
        (runs / "run" / "config.yaml").write_text(re.sub(r"FOLDS: \d", f"FOLDS: {folds}", config))
        done = run_quickly("make_report", runs / "run", "--out", tmp_path / "report.html")
        assert done.returncode == 0, done.stderr
        assert ("Re-ranked: run, then oscar" in (tmp_path / "report.html").read_text()) == shown
    (runs / "run" / "config.yaml").write_text(re.sub(r"FOLDS: \d", "FOLDS: 1", config))
    refused(run_quickly("make_report", runs / "cross"), "expected a dual encoder")
