"""What tools/visualize.py says and draws agrees with the other tools, and its refusals are one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "test_000003"


@pytest.fixture(scope="module")
def runs(run_quickly, tiny_run, tmp_path_factory) -> Path:
    """Return a folder with two trained runs on Scenes, `vsrn` with its decoder and `run` of VSE++."""
    folder = tmp_path_factory.mktemp("runs")
    vsrn = [
        "--cfg_file",
        ROOT / "configs" / "scenes" / "vsrn.yaml",
        *tiny_run(folder)[2:],
        "OUTPUT.SAVE_NAME=vsrn",
        "MODEL.CAPTION_DIM=8",
        "MODEL.CAPTION_WORD_DIM=8",
        "LOSS.CAPTION_WEIGHT=1",
    ]
    for arguments in (vsrn, tiny_run(folder)):
        done = run_quickly("train_retrieval", *arguments)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder


@pytest.fixture
def use(runs, run_quickly, tmp_path):
    """Return a function that runs a tool on a run, from `tmp_path`, and returns what it printed."""

    def use(run: str, tool: str, *arguments: str | Path) -> str:
        done = run_quickly(tool, "--cfg_file", runs / run / "config.yaml", *arguments, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    return use


@pytest.fixture
def changed(scenes, tmp_path):
    """Return a function that copies the test split with its first regions only, and leaves files out."""

    def changed(regions: int | None, *left_out: str) -> list[str]:
        folder = tmp_path / "data"
        folder.mkdir()
        for path in scenes.glob("test_*"):
            if path.name not in left_out:
                shutil.copy(path, folder)
        features = np.load(scenes / "test_ims.npy")
        np.save(folder / "test_ims.npy", features[:, 0] if regions is None else features[:, :regions])
        return [f"DATASET.DATA_DIR={folder}", f"DATASET.IMAGE_DIR={scenes / 'images'}"]

    return changed


def sentences(printed: str) -> list[tuple[float, int, str, str]]:
    """Return score, rank, origin and text of each sentence that was judged."""
    found = re.findall(r"^  (-?\d\.\d{4}) +(\d+)  (\w+) +(.*)$", printed, re.MULTILINE)
    return [(float(score), int(rank), origin, text) for score, rank, origin, text in found]


def written(printed: str) -> dict[str, Path]:
    paths = [Path(path) for path in re.findall(r"^written: (.*)$", printed, re.MULTILINE)]
    return {path.name: path for path in paths}


def test_vsrn_shows_its_graph_its_words_and_its_caption(scenes, runs, use):
    printed = use("vsrn", "visualize", "--image", IMAGE)
    paths = written(printed)
    assert list(paths) == [
        "graph.png",
        "links.png",
        "sentence.png",
        "words.png",
        "matrix.png",
        "attention.html",
    ]
    assert {path.parent for path in paths.values()} == {runs / "vsrn" / "visualize" / IMAGE}
    sizes = {name: Image.open(path).size for name, path in paths.items() if name.endswith(".png")}
    assert sizes["graph.png"] == sizes["links.png"] and sizes["sentence.png"][1] == sizes["graph.png"][1]
    page = paths["attention.html"].read_text()
    assert page.count("data:image/png;base64,") == 5 and page.count("data:image/jpeg;base64,") == 1
    assert "http" not in page, "nothing is fetched from anywhere"
    judged = sentences(printed)
    assert [origin for _, _, origin, _ in judged] == ["true"] * 5 + ["generated"]
    ids = (scenes / "test_ids.txt").read_text().split()
    first = 5 * ids.index(IMAGE)
    assert [text for *_, text in judged[:5]] == (scenes / "test_caps.txt").read_text().splitlines()[
        first : first + 5
    ]
    assert all(text in page for *_, text in judged if text)
    shares = re.findall(r"(\d+\.\d)%$", printed, re.MULTILINE)
    assert len(shares) == 5 and shares == sorted(shares, key=float, reverse=True)


@pytest.mark.parametrize("run", ["vsrn", "run"])
def test_scores_and_ranks_are_those_of_a_search(use, run):
    text = "a red circle left of a blue square"
    asked = sentences(use(run, "visualize", "--image", f"{IMAGE}.png", "--text", text, "--out", "here"))[0]
    hits = re.findall(
        r"^ +(\d+)  (-?\d\.\d+)  (\S+)",
        use(run, "search_retrieval", "--text", text, "--top_k", "20"),
        re.MULTILINE,
    )
    assert len(hits) == 20
    ((rank, score),) = [(int(rank), float(score)) for rank, score, name in hits if name == IMAGE]
    assert asked == (pytest.approx(score, abs=2e-4), rank, "asked", text)


def test_vsepp_shows_what_a_model_without_a_graph_has(use):
    printed = use("run", "visualize", "--image", IMAGE, "--out", "here")
    assert list(written(printed)) == ["sentence.png", "words.png", "matrix.png", "attention.html"]
    assert {origin for _, _, origin, _ in sentences(printed)} == {"true"}
    assert "graph" not in printed


def test_regions_are_named_by_their_tags(scenes, use, tmp_path):
    printed = use("vsrn", "visualize", "--image", IMAGE, "--top_k", "12", "--region", "7", "--out", "here")
    row = (scenes / "test_ids.txt").read_text().split().index(IMAGE)
    tags = json.loads((scenes / "test_tags.txt").read_text().splitlines()[row])["tags"]
    listed = re.findall(r"^  (\d+) ([a-z ]+?) +\d+\.\d%$", printed, re.MULTILINE)
    assert sorted((int(number), tag) for number, tag in listed) == list(enumerate(tags, start=1))
    page = (tmp_path / written(printed)["attention.html"]).read_text()
    assert f"What region 7 {tags[6]} takes from others" in page


def test_grid_features_without_boxes_are_drawn_as_a_grid(use, changed):
    printed = use("run", "visualize", "--image", IMAGE, "--out", "here", *changed(9, "test_boxes.npy"))
    assert "no boxes are stored: the 9 regions are drawn as a grid of 3 x 3, row by row" in printed
    assert "words.png" in written(printed)


def test_without_pictures_the_boxes_stand_on_grey(use, tmp_path):
    printed = use("vsrn", "visualize", "--image", IMAGE, "--out", "here", "DATASET.IMAGE_DIR=")
    assert f"no picture of {IMAGE}: drawn on grey; name the folder" in printed
    with Image.open(tmp_path / written(printed)["links.png"]) as picture:
        assert picture.width == picture.height


def user_error(run_quickly, runs: Path, *arguments: str, cwd: Path) -> str:
    done = run_quickly("visualize", "--cfg_file", runs / "run" / "config.yaml", *arguments, cwd=cwd)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert "written" not in done.stdout
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--image", "test_9"],
            "error: --image: 'test_9' is not an image of the test split (did you mean test_0",
        ),
        (["--image", "train_000003"], "not an image of the test split but of train; add EVAL.SPLIT=train"),
        (["--image", IMAGE, "--region", "13"], "--region: expected 1 to 12"),
        (["--image", IMAGE, "--text", " "], "--text: expected a sentence"),
        (["--image", IMAGE, "--top_k", "0"], "--top_k: expected at least 1, got 0"),
        ([], "--image"),
    ],
    ids=["near", "split", "region", "text", "top_k", "nothing"],
)
def test_a_mistake_is_one_line(run_quickly, runs, tmp_path, arguments, says):
    assert says in user_error(run_quickly, runs, *arguments, cwd=tmp_path)


def test_features_without_regions_or_boxes_are_refused(run_quickly, runs, changed, tmp_path):
    needs_boxes = changed(12, "test_boxes.npy")
    line = user_error(run_quickly, runs, "--image", IMAGE, *needs_boxes, cwd=tmp_path)
    assert "expected the boxes of its 12 regions, got none" in line and "SPLIT_boxes.npy" in line
    shutil.rmtree(tmp_path / "data")
    line = user_error(run_quickly, runs, "--image", IMAGE, *changed(None), cwd=tmp_path)
    assert "expected features of two regions or more, got one vector" in line
