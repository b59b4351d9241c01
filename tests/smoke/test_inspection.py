"""What stands behind a number, by the real command lines: pages, judgements, and an audit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_split) -> Path:
    """Pooled features of 24 pictures a split; a picture and a sentence of test stand in train too."""
    folder = tmp_path_factory.mktemp("inspected")
    for split in ("train", "dev", "test"):
        write_split(folder, split, 24, 6, ids=True)
        ids = [f"{split}_{number}" for number in range(24)]
        (folder / f"{split}_ids.txt").write_text("\n".join(ids) + "\n")
        (folder / split).mkdir()
        for number, name in enumerate(ids):
            pixels = np.random.default_rng([number, len(split)]).integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((48, 48)).save(folder / split / f"{name}.png")
    features = np.load(folder / "train_ims.npy")
    test = np.load(folder / "test_ims.npy")
    test[3] = features[5]
    np.save(folder / "test_ims.npy", test)
    return folder


@pytest.fixture(scope="module")
def runs(data, run_quickly, tmp_path_factory) -> Path:
    """Return a folder with the runs `a` and `b`, both evaluated on test, and `a` on train."""
    out = tmp_path_factory.mktemp("runs")
    for name, epochs in (("a", 6), ("b", 1)):
        done = run_quickly(
            *("train_retrieval", "--cfg_file", ROOT / "configs/rsicd/vsepp.yaml"),
            *(f"DATASET.DATA_DIR={data}", "DATASET.IMAGE_DIR={split}", "INPUT.VOCAB_THRESHOLD=1"),
            *("INPUT.IMG_FEATURE_DIM=6", "MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8", "MISC.SEED=1"),
            *(f"OPTIMIZATION.EPOCHS={epochs}", "OPTIMIZATION.BATCH_SIZE=16", "MONITOR.VISUALDL=false"),
            *("EVAL.RESAMPLES=100", f"OUTPUT.CHECKPOINT_DIR={out}", f"OUTPUT.SAVE_NAME={name}"),
        )
        assert done.returncode == 0, done.stderr
        for split in ("test", "train") if name == "a" else ("test",):
            config = out / name / "config.yaml"
            done = run_quickly("eval_retrieval", "--cfg_file", config, f"EVAL.SPLIT={split}")
            assert done.returncode == 0 and done.stderr == "", done.stderr
    return out


def done_well(done):
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_misses_and_disagreements_become_pages_with_pictures(runs, run_quickly, tmp_path):
    folders = [runs / name / "eval_test" for name in ("a", "b")]
    printed = done_well(run_quickly("inspect_results", "misses", folders[0], "--count", "3"))
    page = (folders[0] / "misses.html").read_text()
    assert "misses.html" in printed and page.count("data:image/jpeg") >= 6
    assert "beat it" in page and page.count('class="case"') == 6
    done_well(run_quickly("inspect_results", "disagreements", *folders, "--out", tmp_path / "d.html"))
    page = (tmp_path / "d.html").read_text()
    assert "a ahead of b" in page and "b ahead of a" in page and "http" not in page
    with np.load(folders[0] / "ranks.npz") as ours, np.load(folders[1] / "ranks.npz") as theirs:
        apart = theirs["t2i_against"].astype(int) - ours["t2i_against"].astype(int)
    first = page.split("a ahead of b")[1].split("b ahead of a")[0]
    ranks = [int(rank.replace(",", "")) for rank in re.findall(r"rank ([\d,]+)<", first)]
    assert ranks[1] - ranks[0] == apart.max()


def test_the_desk_asks_about_pairs_and_judgements_of_it_are_recounted(runs, run_quickly, tmp_path):
    folder = runs / "a" / "eval_test"
    done_well(
        run_quickly("inspect_results", "desk", folder, "--count", "30", "--out", tmp_path / "desk.html")
    )
    page = (tmp_path / "desk.html").read_text()
    assert "Content-Security-Policy" in page and "http:" not in page and "https:" not in page
    asked = json.loads(re.search(r'id="pairs">(.*?)</script>', page, re.DOTALL).group(1))["pairs"]
    assert len(asked) == 30
    judgements = [{**pair, "right": number % 3 == 0} for number, pair in enumerate(asked)]
    (tmp_path / "judgements.json").write_text(json.dumps({"judgements": judgements}))
    command = "judge_pairs", folder, "--judgements", tmp_path / "judgements.json", "--resamples", "100"
    printed = done_well(run_quickly(*command, "--out", tmp_path / "judged"))
    assert "30 pairs judged: 10 right, 20 not" in printed and "text to image R@1" in printed
    recount = json.loads((tmp_path / "judged" / "test_recount.json").read_text())
    before = json.loads((folder / "result.json").read_text())["metrics"]
    for name in ("i2t_r1", "t2i_r1", "t2i_r10", "rsum"):
        assert recount["metrics"][name]["before"]["value"] == pytest.approx(before[name])
    assert recount["metrics"]["rsum"]["after"]["value"] > recount["metrics"]["rsum"]["before"]["value"]
    assert {"i2t_map_at_r", "t2i_map_at_r", "i2t_r_precision"} <= set(recount["metrics"])
    relevance = tmp_path / "judged" / "test_image_to_caption.json"
    config = runs / "a" / "config.yaml"
    done_well(
        run_quickly(
            *("eval_retrieval", "--cfg_file", config, "--out", tmp_path / "again"),
            f"DATASET.RELEVANCE={relevance}",
        )
    )
    after = json.loads((tmp_path / "again" / "result.json").read_text())["metrics"]
    for name in ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r10", "rsum"):
        assert recount["metrics"][name]["after"]["value"] == pytest.approx(after[name])


def test_pairs_are_judged_in_the_terminal_and_the_next_call_goes_on(runs, run_tool, tmp_path):
    folder = runs / "a" / "eval_test"
    command = [
        sys.executable,
        ROOT / "tools" / "judge_pairs.py",
        folder,
        "--out",
        tmp_path,
        "--resamples",
        "50",
    ]
    done = subprocess.run(
        list(map(str, command)), input="y\nmaybe\nn\nq\n", capture_output=True, text=True, check=False
    )
    assert "2 pairs judged: 1 right, 1 not" in done_well(done)
    asked = re.findall(r"of \d+: picture (.*)", done.stdout)
    assert len(asked) == 3 and all(Path(path).is_file() for path in asked), asked
    first = json.loads((tmp_path / "test_judgements.json").read_text())["judgements"]
    assert [each["right"] for each in first] == [True, False]
    done = subprocess.run(list(map(str, command)), input="y\n", capture_output=True, text=True, check=False)
    assert "3 pairs judged: 2 right, 1 not" in done_well(done)
    second = json.loads((tmp_path / "test_judgements.json").read_text())["judgements"]
    assert second[:2] == first and len(second) == 3


def test_judged_pairs_are_no_negatives_in_training(runs, run_quickly, data, tmp_path):
    for split in ("train", "dev"):
        config, folder = runs / "a" / "config.yaml", runs / "a" / f"eval_{split}"
        done_well(run_quickly("eval_retrieval", "--cfg_file", config, f"EVAL.SPLIT={split}"))
        done_well(run_quickly("inspect_results", "desk", folder, "--out", tmp_path / "desk.html"))
        page = (tmp_path / "desk.html").read_text()
        asked = json.loads(re.search(r'id="pairs">(.*?)</script>', page, re.DOTALL).group(1))["pairs"]
        (tmp_path / f"{split}.json").write_text(
            json.dumps({"judgements": [{**pair, "right": True} for pair in asked]})
        )
        done_well(
            run_quickly(
                *("judge_pairs", folder, "--judgements", tmp_path / f"{split}.json"),
                *("--out", tmp_path / "judged", "--resamples", "20"),
            )
        )
    losses = []
    for name, relevance in (
        ("plain", "id"),
        ("masked", f"{tmp_path}/judged/{{split}}_image_to_caption.json"),
    ):
        done = run_quickly(
            *("train_retrieval", "--cfg_file", runs / "a" / "config.yaml", f"DATASET.RELEVANCE={relevance}"),
            *(
                "OPTIMIZATION.EPOCHS=1",
                "MONITOR.PRINT_STEP=1",
                f"OUTPUT.CHECKPOINT_DIR={tmp_path}",
                f"OUTPUT.SAVE_NAME={name}",
            ),
        )
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses.append(next(each["loss"] for each in records if "loss" in each))
    assert losses[1] < losses[0]  # the first batches are alike; fewer pairs are pushed apart


def test_an_audit_finds_the_planted_leak_and_recounts_without_it(runs, data, run_quickly, tmp_path):
    config, folder = runs / "a" / "config.yaml", runs / "a" / "eval_test"
    printed = done_well(
        run_quickly(
            *("audit_data", "--cfg_file", config, "--result", folder, "DATASET.IMAGE_DIR="),
            *("--out", tmp_path / "audit.json", "--page", tmp_path / "audit.html", "--resamples", "100"),
        )
    )
    assert "pictures train and test" in printed and "without pictures that train or dev has too" in printed
    found = json.loads((tmp_path / "audit.json").read_text())
    across = next(each for each in found["pictures"] if (each["first"], each["second"]) == ("train", "test"))
    assert across["equal"] == [["train_5", "test_3"]]
    leaks = next(each for each in found["recounts"] if each["without"].startswith("pictures that train"))
    assert leaks["left"] == {"i2t": 23, "t2i": 115}
    with np.load(folder / "ranks.npz") as ranks:
        hits = np.delete(ranks["i2t_against"], 3) < 5
    assert leaks["metrics"]["i2t_r5"]["value"] == pytest.approx(100 * hits.mean())
    assert "What the splits share" in (tmp_path / "audit.html").read_text()
    printed = done_well(run_quickly("audit_data", "--cfg_file", config))
    assert "perceptual hashes" in printed


def test_mistakes_are_told_in_one_line(runs, run_quickly, tmp_path):
    folder = runs / "a" / "eval_test"
    (tmp_path / "j.json").write_text("{}")
    for command, part in (
        (("inspect_results", "disagreements", folder), "expected 2 folders of results, got 1"),
        (("inspect_results", "misses", tmp_path), "result.json"),
        (("inspect_results", "desk", folder, "--count", "0"), "--count"),
        (("inspect_results", "desk", folder, "--maps", "3"), "--maps"),
        (("inspect_results", "disagreements", folder, runs / "a" / "eval_train"), "split"),
        (("judge_pairs", folder, "--judgements", tmp_path / "j.json"), "not judgements"),
        (("judge_pairs", folder, "--judgements", tmp_path / "no.json"), "cannot be read"),
        (("audit_data", "--cfg_file", runs / "a" / "config.yaml", "--close", "2"), "--close"),
        (("audit_data", "--cfg_file", runs / "a" / "config.yaml", "--result", tmp_path), "result.json"),
    ):
        done = run_quickly(*command)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert part in done.stderr
