"""A run searches any gallery, with or without captions, for sentences and for pictures from anywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (210, 30, 30), "green": (30, 210, 30), "blue": (30, 30, 210), "grey": (120, 120, 120)}
BACKBONE = """MODEL: data/means.onnx
POOLED: pool
GRID: grid
SIZE: 8
CUT: stretch
MEAN: [127, 127, 127]
SCALE: [0.02, 0.02, 0.02]
"""


def paint(path: Path, colour: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(-25, 26, (20, 24, 3)) + COLOURS[colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture(scope="module")
def project(run_quickly, tmp_path_factory) -> Path:
    """Return a working folder with the run `out/mine`, trained on features of small photos of one colour.

    `photos` are twelve other photos without captions, `red_0.jpg` and so on.
    """
    from tests.onnx_networks import write_means

    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    write_means(folder / "data" / "means.onnx", size=8)
    (folder / "backbone.yaml").write_text(BACKBONE)
    lines, seed = ["image,caption,split"], 0
    for split, count in (("train", 48), ("dev", 8), ("test", 8)):
        for number in range(count):
            colour, seed = list(COLOURS)[number % 4], seed + 1
            paint(folder / "data" / "images" / f"{split}_{number}.png", colour, seed)
            lines.append(f"{split}_{number}.png,a {colour} field number {number % 3},{split}")
    (folder / "data" / "captions.csv").write_text("\n".join(lines) + "\n")
    for number in range(12):
        paint(
            folder / "photos" / f"{list(COLOURS)[number % 4]}_{number // 4}.jpg",
            list(COLOURS)[number % 4],
            -1 - number + 99,
        )
    extract = ["--backbone", "backbone.yaml", "--out"]
    run(run_quickly, folder, "extract_features", "--images", "data/images", *extract, "data/all.h5")
    run(run_quickly, folder, "extract_features", "--images", "photos", *extract, "photos.h5")
    keys = ["DATASET.DATA_DIR=data", "DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=captions.csv"]
    keys += ["DATASET.FEAT_FILE=all.h5", "INPUT.IMG_FEATURE_DIM=3", "INPUT.VOCAB_THRESHOLD=1"]
    keys += ["MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8", "OPTIMIZATION.BATCH_SIZE=16", "OPTIMIZATION.EPOCHS=25"]
    keys += ["OPTIMIZATION.LR=0.01", "LOSS.HARD_NEGATIVE=false", "MONITOR.VISUALDL=false"]
    config = ["--cfg_file", ROOT / "configs" / "scenes" / "vsepp.yaml"]
    run(
        run_quickly,
        folder,
        "train_retrieval",
        *config,
        *keys,
        "OUTPUT.SAVE_NAME=mine",
        "DATASET.IMAGE_DIR=images",
    )
    return folder


def run(run_quickly, folder: Path, tool: str, *words: object) -> str:
    done = run_quickly(tool, *words, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.fixture
def hits(run_quickly, project):
    """Return a function that searches with the run and returns the hits as records."""

    def hits(*words: object) -> list[dict]:
        printed = run(run_quickly, project, "search_retrieval", "--cfg_file", "out/mine", "--json", *words)
        return [json.loads(line) for line in printed.splitlines()]

    return hits


def names(found: list[dict]) -> list[str]:
    return [Path(hit["id"]).stem for hit in found if hit["kind"] == "picture"]


@pytest.fixture(scope="module")
def galleries(project, run_quickly) -> dict[str, str]:
    """Return every form of the gallery of photos."""
    (project / "prepared").mkdir()
    shutil.copy(project / "photos.h5", project / "prepared" / "features.h5")
    run(run_quickly, project, "convert_features", "photos.h5", "converted.npy")
    (project / "single").mkdir()
    ids = (project / "converted_ids.txt").read_text().splitlines()
    for image_id, row in zip(ids, np.load(project / "converted.npy"), strict=True):
        np.save(project / "single" / f"{Path(image_id).stem}.npy", row)
    shutil.make_archive(str(project / "zipped"), "zip", project / "photos")
    run(run_quickly, project, "encode", "--cfg_file", "out/mine", "--gallery", "photos.h5", "--out", "e.npz")
    return {
        "a feature file": "photos.h5",
        "a folder with one": "prepared",
        "a converted file": "converted.npy",
        "a folder of features": "single",
        "photos": "photos",
        "a zip file": "zipped.zip",
        "embeddings": "e.npz",
    }


def test_every_gallery_gives_the_same_hits(galleries, hits):
    found = {
        kind: hits("--gallery", path, "--text", "a red field", "--top_k", 12)
        for kind, path in galleries.items()
    }
    for kind, gallery_hits in found.items():
        assert names(gallery_hits) == names(found["a feature file"]), kind
        scores = [hit["score"] for hit in gallery_hits]
        assert scores == pytest.approx([hit["score"] for hit in found["a feature file"]], abs=1e-5), kind
    assert {name.split("_")[0] for name in names(found["photos"])[:3]} == {"red"}


def test_a_picture_finds_the_sentences_about_a_gallery(galleries, hits, project, run_quickly, tmp_path):
    sentences = {colour: f"a {colour} field number 1" for colour in COLOURS}
    (project / "said.txt").write_text(
        "".join(f"{colour}_{n}.jpg\t{text}\n" for colour, text in sentences.items() for n in range(2))
    )
    encode = ["encode", "--cfg_file", "out/mine", "--captions", "--out", "said.npz"]
    run(run_quickly, project, *encode)
    paint(tmp_path / "holiday.jpg", "blue", 1234)
    asked = ["--gallery", galleries["a feature file"], "--top_k", 4]
    found = hits(*asked, "--captions", "said.txt", "--image", tmp_path / "holiday.jpg")
    said = [hit for hit in found if hit["kind"] == "caption"]
    assert sorted(hit["id"] for hit in said) == sorted(sentences.values()), "each sentence once"
    assert said[0]["id"] == sentences["blue"] and not any("own" in hit for hit in said)
    own = hits(*asked, "--captions", "said.txt", "--image", "red_1.jpg")
    assert [hit["id"] for hit in own if hit.get("own")] == [sentences["red"]]
    lines = (project / "said.txt").read_text().replace("\t", ",")
    (project / "said.csv").write_text("image,caption\n" + lines)
    assert hits(*asked, "--captions", "said.csv", "--image", "red_1.jpg") == own
    stored = hits(*asked, "--captions", "said.npz", "--image", tmp_path / "holiday.jpg")
    assert stored[0]["kind"] == "caption" and stored[0]["id"].startswith("a blue field")
    with_texts = hits("--gallery", "photos.h5", "--captions", "said.txt", "--text", sentences["blue"])
    assert {hit["kind"] for hit in with_texts} == {"picture"}


@pytest.mark.parametrize("kind", ["a feature file", "a converted file", "photos", "the split"])
def test_a_picture_from_anywhere_is_encoded_as_the_gallery_was(galleries, hits, tmp_path, kind):
    paint(tmp_path / "holiday.JPG", "blue", 1234)
    gallery = () if kind == "the split" else ("--gallery", galleries[kind])
    found = hits(*gallery, "--image", tmp_path / "holiday.JPG", "--top_k", 2)
    if kind == "the split":
        assert [hit["id"].split()[1] for hit in found if hit["kind"] == "caption"] == ["blue", "blue"]
        assert set(names(found)) == {"test_2", "test_6"}
    else:
        assert {name.split("_")[0] for name in names(found)} == {"blue"}
        assert all(hit["kind"] == "picture" for hit in found), "a gallery has no captions"


def test_a_picture_of_the_gallery_does_not_find_itself(galleries, hits):
    for name in ("photos/blue_1.jpg", "blue_1.jpg"):
        found = names(hits("--gallery", "photos", "--image", name, "--top_k", 11))
        assert len(found) == 11 and "blue_1" not in found


def test_a_picture_that_is_not_there_is_said_to_be_no_file(galleries, run_quickly, project):
    words = "search_retrieval", "--cfg_file", "out/mine", "--gallery", "photos.h5", "--image"
    done = run_quickly(*words, "holidays/lake.jpg", cwd=project)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: --image: 'holidays/lake.jpg' is not an image of ")
    assert done.stderr.endswith("; holidays/lake.jpg: no such file\n")
    assert "no such file" not in run_quickly(*words, "red_99", cwd=project).stderr


def test_features_that_do_not_tell_their_network_need_it_named(galleries, hits, run_quickly, project):
    query = "--gallery", "single", "--image", "photos/green_0.jpg"
    folder = project / "data"
    (folder / "all.h5").rename(folder / "other.h5")
    try:
        shutil.copy(project / "converted_ids.txt", folder / "rows_ids.txt")
        np.save(folder / "rows.npy", np.ones((12, 3), np.float32))
        more = "DATASET.FEAT_FILE=rows.npy"
        done = run_quickly("search_retrieval", "--cfg_file", "out/mine", *query, more, cwd=project)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "--image: single does not tell which network made its 3 features" in done.stderr
        found = names(hits(*query, "--backbone", "backbone.yaml", "--top_k", 3))
        assert {name.split("_")[0] for name in found} == {"green"}
    finally:
        (folder / "other.h5").rename(folder / "all.h5")


def test_another_network_at_the_recorded_place_is_refused(galleries, run_quickly, project):
    from tests.onnx_networks import write_many_means

    network = project / "data" / "means.onnx"
    network.rename(project / "kept.onnx")
    try:
        write_many_means(network, size=8, width=3)
        words = "--gallery", "photos.h5", "--image", "photos/green_0.jpg", "DATASET.IMAGE_DIR="
        done = run_quickly("search_retrieval", "--cfg_file", "out/mine", *words, cwd=project)
        assert done.returncode == 2 and "another network than the one that made photos.h5" in done.stderr
    finally:
        (project / "kept.onnx").rename(network)


def test_many_sentences_are_answered_as_one_by_one(galleries, hits, project):
    sentences = ["a red field", "a blue field number 1", "a grey field"]
    (project / "queries.txt").write_text("\n".join(sentences) + "\n")
    together = hits("--gallery", "photos.h5", "--queries", "queries.txt")
    assert together == hits("--gallery", "photos.h5", "--text", *sentences)
    alone = [hit for text in sentences for hit in hits("--gallery", "photos.h5", "--text", text)]
    assert [hit["id"] for hit in together] == [hit["id"] for hit in alone]
    assert [hit["place"] for hit in together] == [1, 2, 3, 4, 5] * 3


def test_each_of_several_queries_gets_a_page(galleries, run_quickly, project, tmp_path):
    words = "--gallery", "photos", "--text", "a red field", "a blue field", "--out", tmp_path / "pages"
    printed = run(run_quickly, project, "search_retrieval", "--cfg_file", "out/mine", *words)
    assert printed.count("pictures for: ") == 2
    pages = sorted(path.parent.name for path in (tmp_path / "pages").glob("*/hits.html"))
    assert pages == ["a_blue_field", "a_red_field"]


def test_the_page_of_a_picture_from_anywhere_shows_it(galleries, run_quickly, project, tmp_path):
    paint(tmp_path / "far" / "holiday.png", "blue", 77)
    words = "--gallery", "photos", "--image", tmp_path / "far" / "holiday.png", "--out", tmp_path / "page"
    printed = run(run_quickly, project, "search_retrieval", "--cfg_file", "out/mine", *words)
    assert "pictures for: holiday.png\n" in printed
    assert (tmp_path / "page" / "hits.html").read_text().count("data:image/jpeg") == 6, (
        "five hits and the query"
    )


def test_embeddings_are_those_that_scores_are_made_of(run_quickly, project):
    out = {}
    for name, what in (("images", ()), ("captions", ("--captions",)), ("texts", ("--queries", "q.txt"))):
        (project / "q.txt").write_text("a red field number 0\n")
        printed = run(run_quickly, project, "encode", "--cfg_file", "out/mine", "--out", f"{name}.npz", *what)
        assert printed.startswith(f"written: {name}.npz")
        with np.load(project / f"{name}.npz", allow_pickle=False) as file:
            out[name] = {key: file[key] for key in file}
    scores = "--cfg_file", "out/mine", "--save_scores", "scores.npz", "--out", "measured"
    run(run_quickly, project, "eval_retrieval", *scores)
    with np.load(project / "scores.npz") as file:
        np.testing.assert_allclose(
            out["images"]["vectors"] @ out["captions"]["vectors"].T, file["scores"], atol=1e-6
        )
        assert out["images"]["ids"].tolist() == file["image_ids"].tolist()
        assert out["captions"]["ids"].tolist() == file["caption_image_ids"].tolist()
    place = out["captions"]["texts"].tolist().index("a red field number 0")
    np.testing.assert_allclose(out["texts"]["vectors"][0], out["captions"]["vectors"][place], atol=1e-6)
    measured = json.loads((project / "measured" / "result.json").read_text())
    assert out["images"]["checkpoint"] == measured["checkpoint"]["sha256"]


FAULTS = {
    "no such gallery": (["--gallery", "nowhere"], "--gallery: nowhere: no such folder"),
    "a gallery without pictures": (["--gallery", "out"], "--gallery: out: no pictures among its"),
    "several stores": (["--gallery", "data"], "--gallery: data: 2 feature files (all.h5, more.h5)"),
    "another width": (["--gallery", "wide.npy"], "--gallery: wide.npy: features are 5 wide"),
    "no embeddings": (
        ["--gallery", "broken.npz"],
        "--gallery: broken.npz: not an .npz file: expected embeddings",
    ),
    "captions of a split": (["--captions", "queries.txt"], "--captions: expected with --gallery"),
    "a gallery of sentences": (["--gallery", "texts.npz"], "--gallery: texts.npz: embeddings of sentences"),
    "no sentences": (
        ["--gallery", "photos.h5", "--captions", "e.npz"],
        "--captions: e.npz: expected a sentence",
    ),
    "other weights": (["--gallery", "other.npz"], "--gallery: other.npz: embeddings of other weights"),
    "a text for a backbone": (
        ["--gallery", "photos", "--backbone", "queries.txt"],
        "--gallery: queries.txt: expected keys",
    ),
    "re-ranking a gallery": (["--gallery", "photos", "EVAL.RERANK_DIR=x"], "--gallery: expected EVAL.SPLIT"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_gallery_is_refused_on_one_line(galleries, run_quickly, project, fault):
    words, says = FAULTS[fault]
    (project / "queries.txt").write_text("a red field\n")
    shutil.copy(project / "photos.h5", project / "data" / "more.h5")
    np.save(project / "wide.npy", np.ones((2, 5), np.float32))
    (project / "broken.npz").write_bytes((project / "e.npz").read_bytes()[:-40])
    with np.load(project / "e.npz") as file:
        np.savez(project / "other.npz", **{**file, "checkpoint": np.array("0" * 64)})
        np.savez(project / "texts.npz", **{**file, "texts": np.full(len(file["ids"]), "a red field")})
    done = run_quickly(
        "search_retrieval", "--cfg_file", "out/mine", "--text", "a red field", *words, cwd=project
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {says}")


QUERIES = {
    "no words": ("a red field\n???!\n", "--queries: no word of '???!' is in the vocabulary"),
    "unknown words": ("zebra\n", "--queries: no word of 'zebra' is in the vocabulary"),
    "an empty line": ("a\n\nb\n", "queries.txt line 2: empty query: fill the line in, or remove it\n"),
    "no lines": ("", "queries.txt: empty file"),
}


@pytest.mark.parametrize("fault", QUERIES)
def test_a_query_that_cannot_work_is_refused_on_one_line(galleries, run_quickly, project, fault):
    content, says = QUERIES[fault]
    (project / "queries.txt").write_text(content)
    words = "--gallery", "photos.h5", "--queries", "queries.txt"
    done = run_quickly("search_retrieval", "--cfg_file", "out/mine", *words, cwd=project)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and says in done.stderr


def test_unreadable_photos_of_a_gallery_are_left_out_and_told(galleries, run_quickly, project):
    shutil.copytree(project / "photos", project / "damaged", dirs_exist_ok=True)
    (project / "damaged" / "broken.jpg").write_bytes(b"")
    words = "--cfg_file", "out/mine", "--gallery", "damaged", "--text", "a red field"
    printed = run(run_quickly, project, "search_retrieval", *words)
    assert "broken.jpg: skipped, unreadable picture" in printed and "red_" in printed
    done = run_quickly("search_retrieval", *words[:4], "--image", "damaged/broken.jpg", cwd=project)
    assert done.returncode == 2 and "--image: damaged/broken.jpg: unreadable picture" in done.stderr


def test_the_snippets_of_docs_python_run_and_agree_with_the_tools(galleries, run_quickly, project):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for snippet in snippets:
        lines = [line for line in snippet.splitlines() if line and "import" not in line]
        assert len(lines) <= 10, snippet
    record = """
import json
metrics = {name: float(value) for name, value in result.metrics.items()}
same = bool(np.allclose(photos, images, atol=1e-6) and np.allclose(query, images[:1], atol=1e-6))
red = [hit.name for hit in searcher.images_for_text("a red field", 5)]
json.dump([metrics, same, red, [hit.name for hit in alike]], open("python.json", "w"))
"""
    (project / "snippets.py").write_text("\n".join([*snippets, record]))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "snippets.py"], cwd=project, env=environment, check=True, timeout=120)
    metrics, same, red, alike = json.loads((project / "python.json").read_text())
    assert same and sorted(alike[:2]) == ["red_1.jpg", "red_2.jpg"]
    words = "--gallery", "photos.h5", "--text", "a red field", "--json"
    printed = run(run_quickly, project, "search_retrieval", "--cfg_file", "out/mine", *words)
    assert red == [json.loads(line)["id"] for line in printed.splitlines()]
    run(run_quickly, project, "eval_retrieval", "--cfg_file", "out/mine", "--out", "again")
    measured = json.loads((project / "again" / "result.json").read_text())["metrics"]
    assert metrics == pytest.approx(measured)


def test_a_model_that_sees_pixels_encodes_pictures_itself(project, galleries, run_quickly):
    keys = ["DATASET.DATA_DIR=data", "DATASET.IMAGE_DIR=images", "DATASET.FORMAT=csv", "MODEL.CNN_WEIGHTS="]
    keys += [
        "DATASET.CAPTION_FILE=captions.csv",
        "INPUT.CROP_SIZE=32",
        "INPUT.RESIZE=32",
        "OUTPUT.SAVE_NAME=cnn",
    ]
    keys += ["MODEL.EMBED_DIM=8", "MODEL.WORD_DIM=8", "OPTIMIZATION.EPOCHS=1", "MONITOR.VISUALDL=false"]
    config = "--cfg_file", ROOT / "configs" / "ucm" / "vsepp.yaml"
    run(run_quickly, project, "train_retrieval", *config, *keys, "OPTIMIZATION.BATCH_SIZE=16")
    words = "--cfg_file", "out/cnn", "--json", "--top_k", 12, "--image"
    printed = run(run_quickly, project, "search_retrieval", *words, "photos/red_1.jpg", "--gallery", "photos")
    of_gallery = [json.loads(line) for line in printed.splitlines()]
    shutil.copy(project / "photos" / "red_1.jpg", project / "elsewhere.jpg")
    printed = run(run_quickly, project, "search_retrieval", *words, "elsewhere.jpg", "--gallery", "photos")
    of_file = [json.loads(line) for line in printed.splitlines()]
    assert (of_file[0]["id"], of_file[0]["score"]) == ("red_1.jpg", pytest.approx(1, abs=1e-5))
    assert [hit["id"] for hit in of_file[1:]] == [hit["id"] for hit in of_gallery]
    done = run_quickly("search_retrieval", *words, "elsewhere.jpg", "--gallery", "photos.h5", cwd=project)
    assert done.returncode == 2 and "MODEL.CNN=resnet18 reads pictures: name pictures" in done.stderr


def test_a_model_of_regions_encodes_pictures_as_its_store_was_made(project, galleries, run_quickly):
    extract = "--backbone", "backbone.yaml", "--grid", "2", "--out"
    run(run_quickly, project, "extract_features", "--images", "data/images", *extract, "data/grid.h5")
    keys = ["DATASET.DATA_DIR=data", "DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=captions.csv"]
    keys += ["DATASET.FEAT_FILE=grid.h5", "INPUT.IMG_FEATURE_DIM=3", "INPUT.VOCAB_THRESHOLD=1"]
    keys += [
        "MODEL.EMBED_DIM=8",
        "MODEL.WORD_DIM=8",
        "MODEL.GRAPH_BLOCKS=1",
        "MODEL.DIRECTION_DIM=0",
        "OPTIMIZATION.EPOCHS=1",
    ]
    keys += ["MODEL.CAPTION_DIM=8", "MODEL.CAPTION_WORD_DIM=8", "OPTIMIZATION.BATCH_SIZE=16"]
    config = "--cfg_file", ROOT / "configs" / "scenes" / "vsrn.yaml"
    run(
        run_quickly,
        project,
        "train_retrieval",
        *config,
        *keys,
        "OUTPUT.SAVE_NAME=vsrn",
        "MONITOR.VISUALDL=false",
    )
    words = "--cfg_file", "out/vsrn", "DATASET.IMAGE_DIR=", "--json", "--top_k", 1, "--image", "elsewhere.png"
    shutil.copy(project / "data" / "images" / "test_3.png", project / "elsewhere.png")
    printed = run(run_quickly, project, "search_retrieval", *words)
    best = [json.loads(line) for line in printed.splitlines()][-1]
    assert (best["id"], best["score"]) == ("test_3.png", pytest.approx(1, abs=1e-5))
    refused = {
        "photos.h5": "one vector an image, but the model needs regions",
        "photos": "",
    }
    for gallery, says in refused.items():
        done = run_quickly("search_retrieval", *words, "--gallery", gallery, cwd=project)
        assert done.returncode == (2 if says else 0) and says in done.stderr, done.stderr
