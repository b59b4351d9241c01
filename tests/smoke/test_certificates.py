"""Sentences of several images are queries of all of them, and numbers come with what stands behind them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Features of 20 images and sentences that up to four of them share, as search logs have them."""
    folder = tmp_path_factory.mktemp("shared_sentences")
    random = np.random.default_rng(3)
    words = ["red", "blue", "green", "dog", "cat", "bird", "runs", "sits", "big", "small", "tree", "road"]
    queries = {
        " ".join(words[place] for place in sorted(random.choice(12, 3, replace=False))): sorted(
            random.choice(IMAGES, int(random.integers(1, 5)), replace=False).tolist()
        )
        for _ in range(16)
    }
    found = {image for images in queries.values() for image in images}
    queries |= {f"road tree number{image}": [image] for image in sorted(set(range(IMAGES)) - found)}
    (folder / "queries.json").write_text(json.dumps(queries))
    for split in ("train", "dev", "test"):
        np.save(folder / f"{split}_ims.npy", random.normal(size=(IMAGES, 6)).astype("f4"))
    with open(folder / "c.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split", "caption_id"])
        for split in ("train", "dev", "test"):
            rows = [
                (image, text)
                for image in range(IMAGES)
                for text, images in queries.items()
                if image in images
            ]
            writer.writerows(
                [f"{split}{image}", text, split, f"{split}_{place}"]
                for place, (image, text) in enumerate(rows)
            )
    return folder


@pytest.fixture(scope="module")
def runs(data, run_quickly, tmp_path_factory) -> Path:
    """Return a folder with runs of two seeds of one recipe, and one of another."""
    out = tmp_path_factory.mktemp("runs")
    for name, further in (
        ("a_seed1", ["MISC.SEED=1"]),
        ("a_seed2", ["MISC.SEED=2"]),
        ("b", ["MODEL.EMBED_DIM=8"]),
    ):
        done = run_quickly(
            *("train_retrieval", "--cfg_file", ROOT / "configs/rsicd/vsepp.yaml"),
            *(f"DATASET.DATA_DIR={data}", "DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=c.csv"),
            *("INPUT.VOCAB_THRESHOLD=1", "INPUT.IMG_FEATURE_DIM=6", "MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8"),
            *("OPTIMIZATION.EPOCHS=3", "OPTIMIZATION.BATCH_SIZE=8", "MONITOR.VISUALDL=false", "MISC.SEED=1"),
            *(
                f"OUTPUT.CHECKPOINT_DIR={out}",
                f"OUTPUT.SAVE_NAME={name}",
                "DATASET.RELEVANCE=sentence",
                *further,
            ),
        )
        assert done.returncode == 0, done.stderr
        done = run_quickly("eval_retrieval", "--cfg_file", out / name / "config.yaml", "EVAL.RESAMPLES=200")
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return out


def evaluated(run_quickly, runs, folder, *arguments):
    config = runs / "a_seed1" / "config.yaml"
    done = run_quickly(
        "eval_retrieval", "--cfg_file", config, "--out", folder, "EVAL.RESAMPLES=200", *arguments
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads((folder / "result.json").read_text()), done.stdout


def test_a_sentence_of_several_images_is_one_query_that_any_of_them_answers(
    data, runs, run_quickly, tmp_path
):
    result, printed = evaluated(
        run_quickly, runs, tmp_path, "DATASET.RELEVANCE=id", "--save_scores", tmp_path / "s.npz"
    )
    assert result["protocol"]["captions"] == 43 and "right ones by" not in printed
    by_sentence, printed = evaluated(run_quickly, runs, tmp_path / "by_sentence")
    assert by_sentence["protocol"]["captions"] == 17 and "right ones by sentence" in printed
    queries = json.loads((data / "queries.json").read_text())
    with np.load(tmp_path / "s.npz") as saved:
        scores, ids = saved["scores"], saved["image_ids"].tolist()
    texts = [text for image in range(IMAGES) for text, images in queries.items() if image in images]
    columns = np.stack([scores[:, texts.index(text)] for text in queries])
    right = np.zeros(columns.shape, bool)
    for row, images in zip(right, queries.values(), strict=True):
        row[[ids.index(f"test{image}") for image in images]] = True
    for direction, rows, hits in (("t2i", columns, right), ("i2t", columns.T, right.T)):
        ranks = [(row[~hit] >= row[hit].max()).sum() for row, hit in zip(rows, hits, strict=True)]
        for k in (1, 5, 10):
            expected = 100 * np.mean([rank < k for rank in ranks])
            assert by_sentence["metrics"][f"{direction}_r{k}"] == pytest.approx(expected)


def test_a_file_of_right_pairs_and_what_it_leaves_out(data, runs, run_quickly, tmp_path):
    (data / "pairs.json").write_text(json.dumps({"test3": ["test_0", "test_5"], "test7": ["test_1"]}))
    result, printed = evaluated(run_quickly, runs, tmp_path, "DATASET.RELEVANCE=pairs.json")
    assert result["protocol"]["left_out"] == {"images": 18, "captions": 40}
    assert "right ones by file pairs.json; left out, without a right one: 18 images, 40 captions" in printed
    (data / "pairs.json").write_text(json.dumps({"train3": ["test_0"]}))
    config = runs / "a_seed1" / "config.yaml"
    done = run_quickly(
        "eval_retrieval", "--cfg_file", config, "--out", tmp_path, "DATASET.RELEVANCE=pairs.json"
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the image 'train3' is not in test" in done.stderr


def test_a_result_holds_its_certificate_and_the_ranks_behind_it(runs):
    folder = runs / "a_seed1" / "eval_test"
    result = json.loads((folder / "result.json").read_text())
    certificate = result["certificate"]
    assert (certificate["resamples"], certificate["seed"], certificate["over"]) == (200, 1, "images")
    for name, value in result["metrics"].items():
        assert (
            certificate["metrics"][name]["low"] <= value <= certificate["metrics"][name]["high"]
            or "medr" in name
        )
    with np.load(folder / "ranks.npz") as ranks:
        assert 100 * np.mean(ranks["i2t_against"] < 5) == pytest.approx(result["metrics"]["i2t_r5"])
        assert ranks["t2i_relevant"].max() == 4


def test_results_are_compared_and_protocols_that_differ_refused(runs, run_quickly, tmp_path):
    folders = [runs / name / "eval_test" for name in ("a_seed1", "a_seed2", "b")]
    done = run_quickly("compare_results", *folders, "--resamples", "500", "--out", tmp_path / "d.json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "2 seeds, sd" in done.stdout and " b on rsum: " in done.stdout
    differences = json.loads((tmp_path / "d.json").read_text())
    assert {each["metric"] for each in differences} == {
        "rsum",
        *(f"{side}_r{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)),
    }
    done = run_quickly(
        "compare_results", *folders, "--resamples", "500", "--metrics", "rsum", "--fail_below", "999"
    )
    assert done.returncode == 1 and "surely below 999: rsum of a against b" in done.stdout
    other, _ = tmp_path / "other", evaluated(run_quickly, runs, tmp_path / "other", "EVAL.TIE_RULE=favour")
    done = run_quickly("compare_results", folders[2], other)
    assert done.returncode == 2 and 'tie_rule is "favour" in its protocol' in done.stderr


def test_saved_scores_are_recounted_and_counted_by_protocols(runs, run_quickly, run_tool, tmp_path):
    result, printed = evaluated(
        run_quickly,
        runs,
        tmp_path,
        *("--save_scores", tmp_path / "s.npz", "--protocol", "one_list", "coco_1k", "DATASET.RELEVANCE=id"),
    )
    assert result["protocols"]["one_list"]["metrics"]["rsum"] == pytest.approx(result["metrics"]["rsum"])
    assert (
        result["protocols"]["coco_1k"]["protocol"]["folds"] == 5 and "COCO 1K, mean of five folds" in printed
    )
    done = run_tool("recount", tmp_path / "s.npz")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    against = next(line for line in done.stdout.splitlines() if line.startswith("one list, ties against"))
    assert float(against.split()[-1]) == pytest.approx(result["metrics"]["rsum"], abs=0.005)
    done = run_quickly(
        *(
            "recount",
            tmp_path / "s.npz",
            "--protocol",
            "one_list",
            "--resamples",
            "50",
            "--out",
            tmp_path / "counted",
        )
    )
    assert done.returncode == 0 and (tmp_path / "counted/one_list/ranks.npz").is_file()
    again = json.loads((tmp_path / "counted/one_list/result.json").read_text())
    assert again["metrics"]["rsum"] == pytest.approx(result["metrics"]["rsum"])
    for name in ("cxc", "pmrp_pcme", "ndcg", "nothing"):
        done = run_quickly("recount", tmp_path / "s.npz", "--protocol", name)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_protocol_that_does_not_fit_loses_no_result(runs, run_quickly, tmp_path):
    """Names and files are checked before the evaluation; a misfit of the data comes after the result."""
    config, folder = runs / "a_seed1" / "config.yaml", tmp_path / "out"
    command = "eval_retrieval", "--cfg_file", config, "--out", folder, "EVAL.RESAMPLES=50"
    for words, message in (
        (["onelist"], "--protocol: expected some of one_list, "),
        (["onelist"], "got onelist; did you mean one_list?"),
        (["eccv"], "--protocol_data: --protocol eccv: expected the folder"),
        (["eccv", "--protocol_data", "gone"], "--protocol_data: gone: no such file or folder"),
        (["pmrp_cut"], "--objects: --protocol pmrp_cut: expected COCO's instances"),
    ):
        done = run_quickly(*command, "--protocol", *words)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert message in done.stderr and not folder.exists()
    done = run_quickly(*command, "--protocol", "one_list", "ndcg")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: --protocol: split test: its right pairs have no grades")
    assert f"{folder / 'result.json'} has the result" in done.stderr and "rsum" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["rsum"] and "protocols" not in result
    assert {"ranks.npz", "lists.npz"} < {file.name for file in folder.iterdir()}
    done = run_quickly(
        "recount", folder / "protocol_scores.npz", "--protocol", "one_list", "--resamples", "9"
    )
    assert done.returncode == 0, done.stderr
    assert "protocols" in evaluated(run_quickly, runs, folder, "--protocol", "one_list")[0]
    assert not (folder / "protocol_scores.npz").exists()
