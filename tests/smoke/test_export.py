"""Export from the command line: a bundle of every family, opened without Paddle, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from config.errors import UserError
from datasets.features.formats import open_features
from serving.bundle.bundle import Bundle
from tests.forks import run_forked
from tests.picture_files import write_folder
from tests.smoke.test_metric_learning import CLASSES, TASK, pictures_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["MODEL.EMBED_DIM=16", "MODEL.WORD_DIM=8", "MODEL.CAPTION_DIM=8", "MODEL.CAPTION_WORD_DIM=8"]
BERT = {"BERT_DIM": 48, "BERT_LAYERS": 2, "BERT_HEADS": 2, "BERT_INNER_DIM": 96, "BERT_POSITIONS": 70}
PIXELS = ["MODEL.CNN=resnet18", "DATASET.IMAGE_DIR=images", "INPUT.CROP_SIZE=32", "INPUT.RESIZE=36"]
PIXELS += ["INPUT.STANDARDIZE=false"]
FAMILIES = {
    "vse": ("vse", SMALL[:2]),
    "vsepp": ("vsepp", SMALL[:2]),
    "vsepp_both_ways": ("vsepp", [*SMALL[:2], "MODEL.BIDIRECTIONAL=true", "MODEL.TEXT_POOLING=max"]),
    "vsepp_order": (
        "vsepp",
        [*SMALL[:2], "MODEL.MEASURE=order", "MODEL.USE_ABS=true", "LOSS.NAME=hinge", "LOSS.QUEUE_SIZE=0"],
    ),
    "vsepp_pixels": ("vsepp", [*SMALL[:2], *PIXELS]),
    "vsrn": ("vsrn", SMALL),
    "oscar": ("oscar", [*(f"MODEL.{key}={value}" for key, value in BERT.items()), "MONITOR.DEV_IMAGES=4"]),
}
# Runs with a copy of what a bundle needs of the repository, where importing anything else fails.
READER = """
import json, sys
for name in ("paddle", "yacs", "engine", "models", "solvers", "onnx"):
    sys.modules[name] = None
import numpy as np
from serving.bundle.bundle import Bundle

bundle, task = Bundle.open(sys.argv[1]), json.loads(sys.argv[2])
image = bundle.description["image"]
if image["reads"] == "pixels":
    images = bundle.encode_pictures(task["pictures"])
if bundle.description["kind"] == "image":
    found = [list(images.shape), float(np.abs(np.linalg.norm(images, axis=1) - 1).max())]
elif bundle.description["kind"] == "cross":
    regions = np.random.default_rng(0).random((2, 3, image["width"]), np.float32)
    tags = [["circle"], ["square", "circle"]]
    scores = bundle.score_pairs(task["texts"], regions, [3, 1], tags)
    alone = bundle.score_pairs(task["texts"][1:], regions[1:, :1], None, tags[1:])
    found = [list(scores.shape), float(np.abs(scores[1] - alone[0]))]
else:
    texts = bundle.encode_texts(task["texts"])
    alone = bundle.encode_texts(task["texts"][1:])
    found = [list(texts.shape), float(np.abs(texts[1:] - alone).max())]
print(json.dumps([bundle.dimension, bundle.measure, *found]))
"""


def good(done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line(done, *expected: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in expected), done.stderr


@pytest.fixture(scope="module")
def trained(scenes, tiny_run, tmp_path_factory):
    """Return a function from a name in FAMILIES to the folder of its trained run."""
    runs: dict[str, Path] = {}

    def trained(name: str) -> Path:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            family, keys = FAMILIES[name]
            shared = [word for word in tiny_run(folder)[2:] if not word.startswith("MODEL.")]
            config = str(ROOT / "configs" / "scenes" / f"{family}.yaml")
            words = ["--cfg_file", config, *shared, *keys, "OPTIMIZATION.EPOCHS=1"]
            good(run_forked(ROOT / "tools" / "train_retrieval.py", *words))
            runs[name] = folder / "run"
        return runs[name]

    return trained


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return a function that reads a bundle in a process with little of this repository and no Paddle."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("config", "datasets", "serving"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def read(bundle: Path, task: dict) -> list:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", READER, str(bundle), json.dumps(task)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


def export(run: Path, out: Path, *arguments: object):
    words = ["--cfg_file", run / "config.yaml", "--out", out, *arguments]
    return run_forked(ROOT / "tools" / "export_model.py", *words)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_becomes_a_bundle_that_is_read_without_paddle(trained, scenes, reader, tmp_path, name):
    run, bundle = trained(name), tmp_path / "bundle"
    printed = good(export(run, bundle))
    assert "proof on dev" in printed and "0 of them beyond rounding" in printed
    description = json.loads((bundle / "model.json").read_text())
    proof = description["proof"]
    assert 0 < proof["largest_difference"] < 1e-4 and 0 < proof["largest_difference_ragged"] < 1e-4
    assert proof["before"]["rsum"] == pytest.approx(proof["after"]["rsum"], abs=1)
    state = json.loads((run / "best" / "state.json").read_text())
    assert description["checkpoint"]["sha256"] == state["files"]["model.safetensors"]["sha256"]
    assert {each.name for each in bundle.iterdir()} == {"model.json", *description["files"]}
    pictures = [str(path) for path in sorted((scenes / "images").rglob("*.png"))[:3]]
    texts = ["a red circle left of a blue square", "a square"]
    dimension, measure, shape, difference = reader(bundle, {"texts": texts, "pictures": pictures})
    cross, order = name == "oscar", name == "vsepp_order"
    assert (dimension, measure) == ((0, "") if cross else (16, "order" if order else "cosine"))
    assert shape == ([2] if cross else [2, 16])
    assert difference < 1e-5, "what stands beside it in a batch changes nothing"


def test_the_bundle_tells_how_the_features_were_extracted(trained, scenes, tmp_path):
    run, record = trained("vsepp"), scenes / "dev_extraction.json"
    told = {"backbone": {"path": "configs/backbones/some.yaml"}, "detector": None, "options": []}
    record.write_text(json.dumps(told))
    try:
        told_next = good(export(run, tmp_path / "told")).splitlines()[-1]
    finally:
        record.unlink()
    untold_next = good(export(run, tmp_path / "untold")).splitlines()[-1]
    assert told_next == f"next: python tools/serve_retrieval.py --photos PHOTOS --bundle {tmp_path / 'told'}"
    assert untold_next.startswith("next: python tools/build_index.py --gallery FEATURES --out INDEX")
    bundles = [Bundle.open(tmp_path / name) for name in ("told", "untold")]
    assert [bundle.description["extraction"] for bundle in bundles] == [told, None]
    assert bundles[0].identity == bundles[1].identity, "it changes no embedding"
    with pytest.raises(UserError, match="it reads features of width 64, which some.yaml made: extract"):
        bundles[0].encode_pictures(["x.jpg"])


def test_an_oscar_puts_the_hits_of_an_index_in_its_own_order(trained, scenes, tmp_path):
    for name in ("vsrn", "oscar"):
        good(export(trained(name), tmp_path / name))
    gallery, index = scenes / "test_ims.npy", tmp_path / "index"
    build = ["--bundle", tmp_path / "vsrn", "--gallery", gallery, "--out", index]
    good(run_forked(ROOT / "tools" / "build_index.py", *build))
    sentence = "a red circle left of a blue square"
    asked = ["--index", index, "--text", sentence, "--top_k", "20", "--json"]

    def hits(*arguments: object) -> list[dict]:
        done = run_forked(ROOT / "tools" / "search_retrieval.py", *asked, *arguments)
        return json.loads(good(done))["hits"]

    first = [hit["id"] for hit in hits()]
    found = hits("--rerank", tmp_path / "oscar", "--rerank_k", "8")
    assert [hit["id"] for hit in found[8:]] == first[8:] and not any("before" in hit for hit in found[8:])
    best = found[:8]
    assert sorted(hit["before"] for hit in best) == [*range(1, 9)]
    assert [hit["score"] for hit in best] == sorted((hit["score"] for hit in best), reverse=True)
    store, bundle = open_features(gallery), Bundle.open(tmp_path / "oscar")
    for hit in best:  # each pair on its own, from the features of the file
        assert first[hit["before"] - 1] == hit["id"]
        row = store.row_of[hit["id"]]
        regions, tags = store.gather(np.array([row]), pool=False), store.annotations(row).tags
        score = bundle.score_pairs([sentence], regions, None, [tags])[0]
        assert score == pytest.approx(hit["score"], abs=1e-5)
    refused = run_forked(ROOT / "tools" / "search_retrieval.py", *asked, "--rerank", tmp_path / "vsrn")
    one_line(refused, "a vsrn model without a scorer of pairs")


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("name", ["vsepp", "vsrn", "oscar"])
def test_other_precisions_state_their_loss_and_take_less_room(trained, tmp_path, name, precision):
    sizes = []
    for each in ("float32", precision):
        good(export(trained(name), tmp_path / each, "--precision", each, "--max_loss", 100))
        sizes.append(sum(path.stat().st_size for path in (tmp_path / each).glob("*.onnx")))
    proof = json.loads((tmp_path / precision / "model.json").read_text())["proof"]
    assert sizes[1] < sizes[0]
    assert proof["largest_difference"] > 1e-6
    lost = proof["before"]["mean_recall"] - proof["after"]["mean_recall"]
    assert proof["mean_recall_lost"] == pytest.approx(lost, abs=1e-3)
    assert (proof.get("quantised_nodes", 0) > 0) == (precision == "int8")


@pytest.mark.parametrize("name", ["vse", "vsepp_both_ways", "vsepp_pixels"])
def test_graphs_for_paddle_inference_are_proved_too(trained, tmp_path, name):
    bundle = tmp_path / "bundle"
    done = export(trained(name), bundle, "--format", "paddle")
    assert "0 of them beyond rounding" in good(done) and done.stderr == ""
    files = json.loads((bundle / "model.json").read_text())["files"].keys()
    assert files == {"image.json", "image.pdiparams", "text.json", "text.pdiparams", "vocab.json"}
    with pytest.raises(UserError, match="for Paddle Inference, expected one for ONNX Runtime"):
        Bundle.open(bundle)


def test_what_paddle_cannot_trace_is_refused(trained, tmp_path):
    for name in ("vsrn", "oscar"):
        one_line(export(trained(name), tmp_path / "new", "--format", "paddle"), "--format onnx")
    halves = export(trained("vse"), tmp_path / "new", "--format", "paddle", "--precision", "int8")
    one_line(halves, "--precision", "float32")
    assert not any(tmp_path.iterdir())


def test_pictures_of_classes_become_a_bundle(reader, tmp_path):

    for split in CLASSES:
        write_folder(tmp_path / "data" / split, pictures_of(split))
    content = {
        **TASK,
        "DATASET": {**TASK["DATASET"], "DATA_DIR": str(tmp_path / "data")},
        "MODEL": {**TASK["MODEL"], "CNN_DIM": 8},
        "OPTIMIZATION": {**TASK["OPTIMIZATION"], "EPOCHS": 1},
        "OUTPUT": {"CHECKPOINT_DIR": str(tmp_path), "SAVE_NAME": "run"},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(content))
    good(run_forked(ROOT / "tools" / "train_retrieval.py", "--cfg_file", tmp_path / "task.yaml"))
    printed = good(export(tmp_path / "run", tmp_path / "bundle"))
    assert "proof on dev (12 images)" in printed
    pictures = [str(path) for path in sorted((tmp_path / "data" / "test").rglob("*.png"))[:3]]
    found = reader(tmp_path / "bundle", {"pictures": pictures})
    assert found[:3] == [8, "cosine", [3, 8]] and found[3] < 1e-5


def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing(trained, tmp_path):
    run = trained("vsepp")
    (tmp_path / "there").mkdir()
    one_line(export(run, tmp_path / "there"), "already there", "--out", "--overwrite")
    one_line(export(run, tmp_path / "new", "--max_loss", -1), "--max_loss", "0 to 100")
    missing = export(run, tmp_path / "new", f"OUTPUT.CHECKPOINT_DIR={tmp_path / 'nowhere'}")
    one_line(missing, "no checkpoint")
    (tmp_path / "file").write_text("")
    one_line(export(run, tmp_path / "file" / "new"), "cannot write")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}
    assert not any((tmp_path / "there").iterdir())


def test_a_bundle_in_place_stays_until_the_new_one_is_whole(trained, tmp_path):
    out = tmp_path / "bundle"
    good(export(trained("vsepp"), out))
    before = (out / "model.json").read_bytes()
    one_line(export(trained("vsepp"), out, "--overwrite", "DATASET.DEV=nothing"), "nothing")
    assert (out / "model.json").read_bytes() == before
    good(export(trained("vsepp"), out, "--overwrite", "--precision", "float16"))
    assert json.loads((out / "model.json").read_text())["precision"] == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
