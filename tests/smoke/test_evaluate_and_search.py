"""What is measured can be recomputed, what is searched for is found, and every tool takes a run's config."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from models.kernels import onednn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(run_quickly, tiny_run, tmp_path_factory) -> Path:
    """Return a folder with two trained runs, `run` of VSE++ and `vse`."""
    folder = tmp_path_factory.mktemp("runs")
    vse = [
        "--cfg_file",
        ROOT / "configs" / "scenes" / "vse.yaml",
        *tiny_run(folder)[2:],
        "OUTPUT.SAVE_NAME=vse",
    ]
    for arguments in (tiny_run(folder), vse):
        done = run_quickly("train_retrieval", *arguments)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder


@pytest.fixture
def use(runs, run_quickly, tmp_path):
    """Return a function that runs a tool on `run`, writing below `tmp_path`, and returns what it printed."""

    def use(tool: str, *arguments: str | Path, run: str = "run") -> str:
        done = run_quickly(tool, "--cfg_file", runs / run / "config.yaml", *arguments, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    return use


@pytest.fixture(scope="module")
def scores(runs, run_tool, tmp_path_factory) -> dict[str, np.ndarray]:
    """Return the arrays of --save_scores, written by a process of its own."""
    path = tmp_path_factory.mktemp("scores") / "scores.npz"
    done = run_tool("eval_retrieval", "--cfg_file", runs / "run" / "config.yaml", "--save_scores", path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert f"written: {runs}/run/eval_test/result.json and {path}" in done.stdout
    with np.load(path) as file:
        return dict(file)


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_saved_scores_recompute_every_number(runs, scores):
    images, captions = scores["image_ids"].tolist(), scores["caption_image_ids"].tolist()
    assert scores["scores"].dtype == np.float32
    table = scores["scores"].tolist()
    image_ranks, caption_ranks = [], []
    for row, image in enumerate(images):
        best = max(table[row][column] for column, own in enumerate(captions) if own == image)
        above = [column for column, own in enumerate(captions) if own != image and table[row][column] >= best]
        image_ranks.append(len(above))
    for column, own in enumerate(captions):
        mine = table[images.index(own)][column]
        above = [row for row, image in enumerate(images) if image != own and table[row][column] >= mine]
        caption_ranks.append(len(above))
    expected = {}
    for name, ranks in (("i2t", image_ranks), ("t2i", caption_ranks)):
        for k in (1, 5, 10):
            expected[f"{name}_r{k}"] = 100 * sum(rank < k for rank in ranks) / len(ranks)
        expected[f"{name}_medr"] = np.floor(np.median(ranks)) + 1
        expected[f"{name}_meanr"] = np.mean(ranks) + 1
    expected["rsum"] = sum(value for name, value in expected.items() if "_r" in name)
    expected["mean_recall"] = expected["rsum"] / 6
    result = read_result(runs / "run" / "eval_test")
    assert result["metrics"] == pytest.approx(expected)
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (len(images), len(captions))


def test_swapped_captions_are_measured(runs, scores):
    swapped = read_result(runs / "run" / "eval_test")["swapped"]
    assert {"all", "colours", "sides"} <= set(swapped)
    assert all(0 <= accuracy <= 100 for accuracy in swapped.values())


def test_an_evaluation_repeats_itself(runs, scores, use, tmp_path):
    printed = use("eval_retrieval", "--out", tmp_path / "again", "--save_scores", tmp_path / "again.npz")
    assert "image to text" in printed and "told apart" in printed
    first, again = (read_result(folder) for folder in (runs / "run" / "eval_test", tmp_path / "again"))
    assert first.pop("versions").keys() == again.pop("versions").keys(), (
        "which tell whether files were edited"
    )
    assert first == again
    with np.load(tmp_path / "again.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in scores.items())


@pytest.mark.skipif(not onednn.has_bfloat16(), reason="no instructions for bfloat16 here")
def test_an_evaluation_in_bfloat16_says_so_and_what_it_changes(runs, scores, use, tmp_path):
    printed = use(
        "eval_retrieval", "--out", "lowered", "--check_precision", "20", "RUNTIME.PRECISION=bfloat16"
    )
    assert "layers in bfloat16" in printed
    lowered = read_result(tmp_path / "lowered")
    assert lowered["protocol"]["precision"] == "bfloat16"
    check = lowered["precision_check"]
    assert check["captions"] == 20 >= check["same_rank"]
    assert 0 < check["embedding"] < 2**-6  # of vectors of length 1
    line = f"the own image has the same rank for {check['same_rank']}"
    assert f"text to image, {line}; R@1 {check['recall']['R@1'][0]:.2f} in float32, " in printed
    use("eval_retrieval", "--out", "plain")
    assert "precision" not in read_result(tmp_path / "plain")["protocol"]


def test_a_check_of_no_captions_is_refused(runs, run_tool):
    done = run_tool("eval_retrieval", "--cfg_file", runs / "run", "--check_precision", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: --check_precision: expected at least 1 caption, got 0\n"


def test_another_checkpoint_split_and_place_are_evaluated(runs, scores, use, tmp_path):
    checkpoint = runs / "run" / "last"
    use("eval_retrieval", f"EVAL.CHECKPOINT_DIR={checkpoint}", "EVAL.SPLIT=dev", "--out", "here")
    result = read_result(tmp_path / "here")
    state = json.loads((checkpoint / "state.json").read_text())
    assert result["checkpoint"]["folder"] == str(checkpoint)
    assert result["checkpoint"]["step"] == state["progress"]["step"] == 18
    assert result["protocol"]["split"] == "dev"
    history = [json.loads(line) for line in (runs / "run" / "log.jsonl").read_text().splitlines()]
    validation = [record for record in history if record["event"] == "validation"][-1]
    assert result["metrics"]["rsum"] == pytest.approx(validation["rsum"]), "as training saw it"
    assert not (runs / "run" / "eval_dev").exists()
    use("eval_retrieval", "EVAL.SPLIT=dev", "EVAL.TIE_RULE=average")
    result = read_result(runs / "run" / "eval_dev")
    assert (result["protocol"]["tie_rule"], result["checkpoint"]["folder"]) == ("average", f"{runs}/run/best")


def test_every_tool_takes_the_config_of_a_run(runs, use):
    shown = yaml.safe_load(use("show_config"))
    assert shown == yaml.safe_load((runs / "run" / "config.yaml").read_text())
    assert "nothing left to train" in use("train_retrieval", "--resume")
    assert "image to text" in use("eval_retrieval", "--out", "here")
    printed = use("search_retrieval", "--text", "a circle", "--out", "here")
    assert re.search(r"^pictures for: a circle \(of \d+, split test\)$", printed, re.MULTILINE)


def found(printed: str, heading: str) -> list[tuple[str, float]]:
    """Return the names and scores that a search printed under a heading."""
    part = printed.partition(f"{heading} for: ")[2].partition(" for: ")[0]
    lines = re.findall(r"^ +\d+  (-?[\d.]+)  (.*?)(?:  \(its own\))?$", part, re.MULTILINE)
    return [(name, float(score)) for score, name in lines]


def same(hits: list[tuple[str, float]], names: list[str], values: np.ndarray) -> None:
    """Check that hits are the best of all, with their scores."""
    best = np.argsort(-values, kind="stable")[: len(hits)]
    assert [name for name, _ in hits] == [names[place] for place in best]
    assert [score for _, score in hits] == pytest.approx(values[best], abs=1e-4)


def captions_of(scenes: Path) -> list[str]:
    return (scenes / "test_caps.txt").read_text().splitlines()


def test_a_sentence_finds_the_pictures_that_score_highest(runs, scenes, scores, use):
    sentence = captions_of(scenes)[7]
    printed = use("search_retrieval", "--text", sentence, "--top_k", "4")
    hits = found(printed, "pictures")
    assert len(hits) == 4
    same(hits, scores["image_ids"].tolist(), scores["scores"][:, 7])
    written = re.findall(r"^written: (.*)$", printed, re.MULTILINE)
    assert [Path(path).name for path in written] == ["hits.png", "hits.html"]
    assert all(Path(path).parent.parent == runs / "run" / "search" for path in written)
    with Image.open(written[0]) as sheet:
        assert sheet.format == "PNG" and sheet.width >= 4 * 160
    page = Path(written[1]).read_text()
    assert page.count("data:image/jpeg;base64,") == 4 and all(name in page for name, _ in hits)


def test_a_word_that_training_never_saw_is_told(use):
    printed = use("search_retrieval", "--text", "a red zebra", "--out", "here")
    assert "not in the model's vocabulary: zebra" in printed and len(found(printed, "pictures")) == 5


def test_a_picture_is_found_by_id_by_file_and_by_features(scenes, scores, use, tmp_path):
    image = scores["image_ids"].tolist()[3]
    np.save(tmp_path / "query.npy", np.load(scenes / "test_ims.npy")[3])
    answers, sheets = {}, []
    for query in (image, f"{image}.png", scenes / "images" / f"{image}.png", tmp_path / "query.npy"):
        printed = use("search_retrieval", "--image", query, "--top_k", "3", "--out", tmp_path / "here")
        answers[query] = found(printed, "captions"), found(printed, "pictures")
        page = (tmp_path / "here" / "hits.html").read_text()
        of_the_split = query != tmp_path / "query.npy"
        assert page.count("data:image/jpeg;base64,") == 3 + of_the_split, "the query first, where it is known"
        with Image.open(tmp_path / "here" / "hits.png") as sheet:
            sheets.append((of_the_split, sheet.width))
    assert len(set(sheets)) == 2 and min(sheets)[1] < max(sheets)[1]
    captions, pictures = answers.pop(image)
    same(captions, captions_of(scenes), scores["scores"][3])
    assert len(pictures) == 3 and image not in [name for name, _ in pictures]
    by_features = answers.pop(tmp_path / "query.npy")
    assert by_features[0] == captions and by_features[1][0] == (image, pytest.approx(1, abs=1e-4))
    assert all(answer == (captions, pictures) for answer in answers.values())


def test_a_pictures_own_captions_are_marked(scenes, scores, use, tmp_path):
    image, captions = scores["image_ids"].tolist()[3], captions_of(scenes)
    printed = use("search_retrieval", "--image", image, "--top_k", "999", "--out", "here")
    own = {caption for caption, of in zip(captions, scores["caption_image_ids"], strict=True) if of == image}
    assert set(re.findall(r"^ +\d+  -?[\d.]+  (.*)  \(its own\)$", printed, re.MULTILINE)) == own
    assert (tmp_path / "here" / "hits.html").read_text().count('<li class="right">') == len(own) == 5


def test_searches_in_any_script_keep_apart(runs, use):
    places = [
        use("search_retrieval", "--text", f"circle {word}").splitlines()[-1] for word in ("红色", "蓝色")
    ]
    assert places == [f"written: {runs}/run/search/circle_{word}/hits.html" for word in ("红色", "蓝色")]


def test_pictures_that_are_not_there_are_asked_for(use, tmp_path):
    (tmp_path / "empty").mkdir()
    hint = "no pictures to show{}: name their folder with DATASET.IMAGE_DIR=path/to/pictures"
    for folder, where in ((tmp_path / "empty", f" in {tmp_path}/empty"), ("", "")):
        printed = use(
            "search_retrieval", "--text", "a circle", "--out", "here", f"DATASET.IMAGE_DIR={folder}"
        )
        assert hint.format(where) in printed


def test_a_report_compares_two_runs(runs, run_tool, tmp_path):
    report = run_tool("make_report", runs / "run", runs / "vse", "--title", "Two <runs>", cwd=tmp_path)
    assert report.returncode == 0 and report.stderr == "", report.stderr
    assert report.stdout.splitlines()[-1] == f"written: {runs}/run/report.html"
    page = (runs / "run" / "report.html").read_text()
    result = read_result(runs / "run" / "eval_test")
    assert "Two &lt;runs&gt;" in page and "</span>vse</td>" in page
    assert f">{result['metrics']['rsum']:.1f}<" in page
    assert all(f">{accuracy:.1f}</span>" in page for accuracy in result["swapped"].values())
    assert "data:image/png;base64," in page and page.count("data:image/jpeg;base64,") > 20


def test_runs_on_other_data_are_not_compared(runs, run_quickly, tmp_path):
    """As after an evaluation key of one of them was changed."""
    shutil.copytree(runs / "vse", tmp_path / "folded")
    config = tmp_path / "folded" / "config.yaml"
    config.write_text(config.read_text().replace("FOLDS: 1", "FOLDS: 2"))
    done = run_quickly("make_report", runs / "run", tmp_path / "folded", "--out", tmp_path / "report.html")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "folded was measured with other EVAL.FOLDS than run, expected the same" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_tools_run_from_any_folder_with_options_in_any_order(runs, tmp_path):
    """PYTHONPATH at the root, as many users have it, changes nothing."""
    tool = Path(os.path.relpath(ROOT / "tools" / "eval_retrieval.py", tmp_path))
    config = os.path.relpath(runs / "run" / "config.yaml", tmp_path)
    command = [sys.executable, tool, "EVAL.SPLIT=dev", "--out", "here", "--cfg_file", config, "EVAL.FOLDS=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = read_result(tmp_path / "here")
    assert (result["protocol"]["split"], result["protocol"]["folds"]) == ("dev", 2)


@pytest.mark.parametrize("tool", ["train_retrieval", "eval_retrieval", "search_retrieval"])
def test_a_ctrl_c_while_paddle_is_imported_leaves_at_once(runs, tmp_path, tool):
    """Paddle's own import would answer with a traceback."""
    (tmp_path / "paddle.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, ROOT / "tools" / f"{tool}.py", "--cfg_file", runs / "run" / "config.yaml"]
    command += ["--text", "a circle"] if tool == "search_retrieval" else []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_run_that_was_moved_is_evaluated_from_another_folder(runs, run_quickly, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "elsewhere" / "copy")
    done = run_quickly("eval_retrieval", "--cfg_file", "elsewhere/copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, now = (
        read_result(each / "eval_test") for each in (runs / "run", tmp_path / "elsewhere" / "copy")
    )
    assert now["metrics"] == before["metrics"]


def test_resuming_from_another_folder_changes_no_key(runs, run_quickly, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "copy")
    more = "OPTIMIZATION.EPOCHS=4", "--resume"
    done = run_quickly("train_retrieval", "--cfg_file", "copy", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming with changed OPTIMIZATION.EPOCHS:" in done.stdout
