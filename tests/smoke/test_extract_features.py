"""Features are extracted from the command line, whatever the folder holds and happens on the way."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from datasets.features.box_terms import open_regions
from datasets.features.formats import open_features
from models.kernels.choice import LAYERS, quickest
from models.kernels.onednn import has_bfloat16
from tests.forks import run_forked
from tests.onnx_networks import (
    backbone_yaml,
    detector_yaml,
    write_convolutions,
    write_detector,
    write_means,
    yolox_output,
)
from tests.picture_files import encoded, noisy, write_folder, write_zip

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT = Path(__file__).with_name("interrupt_extraction.py")
PICTURES = {
    f"{'ab'[number % 2]}/{number} x.jpg": encoded(noisy(60, 40, seed=number), "JPEG") for number in range(6)
}
NAMES = sorted(PICTURES)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Return a folder that holds `photos`, the networks `means.onnx` and `boxes.onnx` and their files."""
    write_folder(tmp_path / "photos", PICTURES)
    backbone_yaml(tmp_path / "means.yaml", write_means(tmp_path / "means.onnx"))
    found = [((0, 0, 16, 20), 2, 0.9), ((16, 0, 32, 20), 1, 0.6), ((4, 4, 20, 20), 0, 0.05)]
    detector = write_detector(tmp_path / "boxes.onnx", yolox_output(found))
    detector_yaml(tmp_path / "boxes.yaml", detector)
    return tmp_path


def command(*more: object) -> list[object]:
    return ["extract_features", "--images", "photos", "--backbone", "means.yaml", *more]


def means_of(name: str) -> np.ndarray:
    """Return the mean colour of a picture, as nothing but shrinking changes it."""
    number = int(name.split("/")[1].split(" ")[0])
    return np.asarray(noisy(60, 40, seed=number)).mean(axis=(0, 1)) / 255


def test_a_folder_becomes_a_store_twice_the_same(run_tool, run_quickly, photos):
    done = run_tool(*command("--out", "a.h5", "--batch_size", 4), cwd=photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "a.h5: 6 pictures, 3 features, float32; ids, image sizes"
    store = open_features(photos / "a.h5")
    assert store.image_ids == NAMES and store[0].image_size == (60, 40)
    for row, name in enumerate(NAMES):
        np.testing.assert_allclose(store[row].features, means_of(name), atol=0.02)
    done = run_quickly(*command("--out", "b.h5", "--batch_size", 4, "--workers", 0), cwd=photos)
    assert done.returncode == 0
    assert (photos / "a.h5").read_bytes() == (photos / "b.h5").read_bytes()
    assert not list(photos.glob("*.extraction")) and not list(photos.glob("*.partial"))


def test_broken_pictures_of_a_zip_file_are_named_left_out_and_counted(run_quickly, photos):
    broken = {"a/0 x.jpg": b"", "b/1 x.jpg": PICTURES["b/1 x.jpg"][:300], "c.png": b"no picture"}
    write_zip(photos / "photos.zip", PICTURES | broken)
    extraction = ("extract_features", "--backbone", "means.yaml", "--out", "z_ims.npy", "--dtype", "float16")
    done = run_quickly(*extraction, "--images", "photos.zip", cwd=photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:-1] == [
        "a/0 x.jpg: skipped, unreadable picture: zero bytes",
        done.stdout.splitlines()[-3],
        "c.png: skipped, unreadable picture: not a picture of a known format",
    ]
    assert done.stdout.endswith("unreadable pictures skipped: 3\n") and "b/1 x.jpg: skipped" in done.stdout
    store = open_features(photos / "z_ims.npy")
    assert store.image_ids == NAMES[1:3] + NAMES[4:] and store.dtype == np.float16
    done = run_quickly(
        *extraction, "--images", "photos.zip", "--unreadable", "refuse", "--overwrite", cwd=photos
    )
    assert done.returncode == 2
    expected = "error: photos.zip/a/0 x.jpg: unreadable picture: zero bytes: mend or remove it, or skip such "
    assert done.stderr == f"{expected}pictures (--unreadable skip, INPUT.UNREADABLE=skip)\n"
    assert open_features(photos / "z_ims.npy").image_ids == store.image_ids, "what was there is there still"


def test_a_grid_has_boxes(run_quickly, photos):
    done = run_quickly(*command("--grid", 2, "--out", "g_ims.npy"), cwd=photos)
    assert done.returncode == 0, done.stderr
    assert "g_ims.npy: 6 pictures, 4 regions x 3 features, float32; ids, boxes, image sizes" in done.stdout
    store = open_features(photos / "g_ims.npy")
    assert store[1].boxes.tolist() == [[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [30, 20, 60, 40]]
    np.testing.assert_allclose(store[1].features.mean(axis=0), means_of(NAMES[1]), atol=0.02)


def test_regions_have_boxes_tags_and_box_terms_for_oscar(run_quickly, photos):
    done = run_quickly(*command("--detector", "boxes.yaml", "--regions", 2, 5, "--out", "r.h5"), cwd=photos)
    assert done.returncode == 0, done.stderr
    assert "2 regions x 3 features, float32; ids, boxes, image sizes, tags with confidences" in done.stdout
    image = open_features(photos / "r.h5")[0]
    assert image.tags == ["tree", "traffic light"] and image.image_size == (60, 40)
    np.testing.assert_allclose(image.boxes, [[0, 0, 30, 38.1], [30, 0, 60, 38.1]], atol=0.1)
    with_terms = open_regions(photos / "r.h5", 9)[0]  # [2,3+6]
    np.testing.assert_allclose(with_terms.features[1, 3:], [0.5, 0, 1, 0.952, 0.5, 0.952], atol=1e-3)
    done = run_quickly(*command("--detector", "boxes.yaml", "--min_score", 0.01, "--out", "s.h5"), cwd=photos)
    assert "3 regions x 3 features" in done.stdout


def test_pictures_of_a_caption_file_are_named_as_it_names_them(run_quickly, photos):
    (photos / "c.csv").write_text(
        "image,caption,split\n3 x.jpg,three,test\n0 x,nought,train\n3 x.jpg,trois,test\n"
    )
    done = run_quickly(*command("--captions", "c.csv", "--out", "c.h5"), cwd=photos)
    assert done.returncode == 0, done.stderr
    assert open_features(photos / "c.h5").image_ids == ["3 x.jpg", "0 x"]
    done = run_quickly(*command("--captions", "c.csv", "--split", "train", "--out", "d.h5"), cwd=photos)
    store = open_features(photos / "d.h5")
    assert store.image_ids == ["0 x"]
    np.testing.assert_allclose(store[0].features, means_of("a/0 x.jpg"), atol=0.02)


@pytest.mark.parametrize("model", ["vsrn", "oscar"])
def test_own_photos_train_models_of_regions(run_quickly, photos, model):
    more = {f"c/{n} x.jpg": encoded(noisy(60, 40, seed=n), "JPEG") for n in range(6, 16)}
    write_folder(photos / "photos", more)
    rows = ["image,caption,split"]
    for number in range(16):
        split = "train" if number < 10 else "dev" if number < 13 else "test"
        rows += [f"{number} x.jpg,{word} picture of number {number},{split}" for word in ("a", "one")]
    (photos / "c.csv").write_text("\n".join(rows) + "\n")
    found = command("--captions", "c.csv", "--detector", "boxes.yaml", "--out", "mine.h5")
    assert run_quickly(*found, cwd=photos).returncode == 0
    small = {
        "vsrn": [
            "MODEL.EMBED_DIM=8",
            "MODEL.WORD_DIM=8",
            "MODEL.DIRECTION_DIM=0",
            "INPUT.IMG_FEATURE_DIM=3",
            "OPTIMIZATION.BATCH_SIZE=8",
        ],
        "oscar": [
            *("MODEL.BERT_DIM=16", "MODEL.BERT_INNER_DIM=32", "MODEL.BERT_HEADS=2", "MODEL.BERT_LAYERS=1"),
            *("INPUT.IMG_FEATURE_DIM=9", "OPTIMIZATION.BATCH_SIZE=4", "INPUT.ADD_OD_LABEL=true"),
        ],
    }
    trained = run_quickly(
        "train_retrieval",
        *("--cfg_file", ROOT / f"configs/scenes/{model}.yaml", f"DATASET.DATA_DIR={photos}"),
        *("DATASET.FORMAT=csv", "DATASET.CAPTION_FILE=c.csv", "DATASET.FEAT_FILE=mine.h5"),
        *("INPUT.VOCAB_THRESHOLD=1", "OPTIMIZATION.EPOCHS=1", "OPTIMIZATION.IMAGES_TOGETHER=1"),
        *(f"OUTPUT.CHECKPOINT_DIR={photos}", "OUTPUT.SAVE_NAME=run", "RUNTIME.DEVICE=cpu", *small[model]),
    )
    assert trained.returncode == 0, trained.stderr
    assert (photos / "run/best/model.safetensors").is_file()


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("more", [[], ["--detector", "boxes.yaml"]])
def test_a_stopped_extraction_goes_on_to_the_same_bytes(run_quickly, photos, name, code, more):
    options = [*command(*more, "--batch_size", 2)[1:], "--out"]
    assert run_quickly("extract_features", *options, "whole.h5", cwd=photos).returncode == 0
    if more:  # regions come in larger batches: more pictures, so that there is a second one
        write_folder(
            photos / "photos", {f"c/{n} x.jpg": encoded(noisy(60, 40, seed=n), "JPEG") for n in range(9)}
        )
        assert (
            run_quickly("extract_features", *options, "whole.h5", "--overwrite", cwd=photos).returncode == 0
        )
    tool = ROOT / "tools" / "extract_features.py"
    stopped = run_forked(INTERRUPT, name, "2", tool, *options, "a.h5", cwd=photos)
    assert stopped.returncode == code, stopped.stderr
    assert not (photos / "a.h5").exists()
    done = run_quickly("extract_features", *options, "a.h5", cwd=photos)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"a.h5.extraction: going on after {8 if more else 2} of {15 if more else 6} pictures" in done.stdout
    )
    assert (photos / "a.h5").read_bytes() == (photos / "whole.h5").read_bytes()
    assert not (photos / "a.h5.extraction").exists()


def test_two_processes_go_on_with_what_one_has_left_to_the_same_bytes(run_quickly, run_launched, photos):
    for number in range(6, 11):
        (photos / "photos" / f"{number}.jpg").write_bytes(encoded(noisy(60, 40, seed=number), "JPEG"))
    (photos / "photos" / "b" / "9.jpg").write_bytes(b"")
    options = command("--detector", "boxes.yaml", "--regions", 1, 3, "--out")  # eight pictures are a batch
    assert run_quickly(*options, "whole.h5", cwd=photos).returncode == 0
    done = run_launched(*options, "fresh.h5", cwd=photos)
    assert done.returncode == 0, done.stdout + done.stderr
    tool = ROOT / "tools" / "extract_features.py"
    run_forked(INTERRUPT, "SIGKILL", "2", tool, *options[1:], "left.h5", cwd=photos)
    done = run_launched(*options, "left.h5", cwd=photos)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after 8 of 12 pictures" in done.stdout
    assert "b/9.jpg: skipped, unreadable picture: zero bytes" in done.stdout
    assert "pictures" not in (photos / "logs/workerlog.1").read_text(), "one process speaks"
    for name in ("fresh.h5", "left.h5"):
        assert (photos / name).read_bytes() == (photos / "whole.h5").read_bytes()


def other_size(folder: Path) -> None:
    backbone_yaml(folder / "means.yaml", folder / "means.onnx", SIZE=16)


def other_classes(folder: Path) -> None:
    detector_yaml(folder / "boxes.yaml", folder / "boxes.onnx", CLASSES="[dog]")


def missing_picture(folder: Path) -> None:
    (folder / "c.csv").write_text("image,caption\nnone.jpg,nothing\n")


def no_pictures(folder: Path) -> None:
    shutil.rmtree(folder / "photos")
    (folder / "photos").mkdir()


def only_broken(folder: Path) -> None:
    no_pictures(folder)
    (folder / "photos/a.jpg").write_bytes(b"x")


def unfit_name(folder: Path) -> None:
    (folder / "photos/a\nb.jpg").write_bytes(PICTURES[NAMES[0]])


def nothing(folder: Path) -> None:
    """Leave all as it is."""


MISTAKES = {
    "a network of another size": (other_size, [], "means.onnx: input image is tensor(float) ['n', 3, 8, 8]"),
    "a missing network": (nothing, ["--model", "none.onnx"], "none.onnx: no such file, expected a network"),
    "other classes": (
        other_classes,
        ["--detector", "boxes.yaml"],
        "does not fit its YAML file: expected [20, 6]",
    ),
    "a finer grid than the map": (
        nothing,
        ["--grid", "3"],
        "--grid 3: the network makes [3, 2, 2] of a picture",
    ),
    "a missing picture": (
        missing_picture,
        ["--captions", "c.csv"],
        "c.csv line 2: no picture for 'none.jpg' in photos",
    ),
    "an empty folder": (no_pictures, [], "photos: no pictures among its 0 files"),
    "nothing readable": (only_broken, [], "a.jpg: not a picture of a known format; none of 1 pictures"),
    "a name that is no id": (unfit_name, [], "'a\\nb.jpg': a name with blanks at its ends, a line break"),
    "two ways": (nothing, ["--grid", "2", "--ten_crop"], "expected one of --ten_crop, --grid and --detector"),
    "no number": (nothing, ["--grid", "0"], "expected a whole number of at least 1, got '0'"),
    "regions the wrong way round": (
        nothing,
        ["--regions", "5", "2"],
        "--regions: expected the fewest, then the most",
    ),
    "no such format": (nothing, ["--out", "a.txt"], "a.txt: expected a name that ends with .h5"),
    "a file in the way": (
        nothing,
        ["--out", "kept.h5"],
        "kept.h5: already there: give another --out, or --overwrite",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_leave_what_is_there(run_quickly, photos, name):
    damage, options, message = MISTAKES[name]
    (photos / "kept.h5").write_text("mine")
    damage(photos)
    done = run_quickly(*command("--out", "a.h5", *options), cwd=photos)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert (photos / "kept.h5").read_text() == "mine"
    assert not list(photos.glob("a.h5*"))


def test_the_file_tells_the_precision_of_its_features(run_quickly, photos):
    backbone_yaml(photos / "means.yaml", write_convolutions(photos / "convolutions.onnx"))
    found = {}
    for name in ("float32", "auto", "bfloat16") if has_bfloat16() else ("float32", "auto"):
        done = run_quickly(*command("--out", f"{name}.h5", "--precision", name), cwd=photos)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if line.startswith("--precision")]
        taken = quickest(LAYERS) if name == "auto" else name
        assert said == ([f"--precision auto: {taken}"] if name == "auto" else [])
        found[name] = store = open_features(photos / f"{name}.h5")
        assert store.extraction.get("precision", "float32") == taken
    vectors = {name: store.gather(np.arange(6), pool=False) for name, store in found.items()}
    if has_bfloat16():
        np.testing.assert_array_equal(vectors["auto"], vectors[quickest(LAYERS)])
        np.testing.assert_allclose(vectors["bfloat16"], vectors["float32"], atol=0.05)
        assert (vectors["bfloat16"] != vectors["float32"]).any()


def test_several_processes_are_told_one_precision(run_tool, photos, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    done = run_tool(*command("--out", "a.h5", "--precision", "auto"), cwd=photos)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--precision: expected float32 or bfloat16 for several processes" in done.stderr


def test_an_extraction_with_other_settings_is_not_mixed_in(run_quickly, photos):
    (photos / "photos/z.jpg").write_bytes(b"")
    refusing = command("--out", "a.h5", "--unreadable", "refuse", "--batch_size", 4)
    assert run_quickly(*refusing, cwd=photos).returncode == 2
    (photos / "photos/z.jpg").unlink()
    done = run_quickly(*command("--out", "a.h5"), cwd=photos)
    assert done.returncode == 2 and "stopped here with other pictures" in done.stderr
    assert run_quickly(*command("--out", "a.h5", "--overwrite"), cwd=photos).returncode == 0
    assert len(open_features(photos / "a.h5")) == 6


@pytest.fixture(scope="module")
def natural(shared) -> Path:
    """Return the shared data where the pictures and networks of the worked example are."""
    if not (shared / "data/models/mnv2.onnx").is_file():
        pytest.skip("no networks in the shared data")
    return shared / "data"


def test_features_agree_with_stored_ones(run_quickly, natural, tmp_path):
    ids = (natural / "natural_precomp/test_ids.txt").read_text().splitlines()[:24]
    (tmp_path / "captions.json").write_text(json.dumps({name: ["a caption"] for name in ids}))
    for out in ("a.h5", "b.h5"):
        done = run_quickly(
            "extract_features",
            *("--images", natural / "natural_images", "--captions", "captions.json", "--out", out),
            *("--backbone", ROOT / "configs/backbones/mobilenetv2.yaml"),
            *("--model", natural / "models/mnv2.onnx"),
            cwd=tmp_path,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    found = open_features(tmp_path / "a.h5")
    stored = open_features(natural / "natural_precomp/test_ims.npy")
    assert found.image_ids == ids == stored.image_ids[:24]
    ours, theirs = (store.vectors(np.arange(24)) for store in (found, stored))
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.mean() > 0.91 and cosine.min() > 0.85


def test_a_detector_finds_what_is_in_a_photo(run_quickly, natural, tmp_path):
    (tmp_path / "captions.json").write_text(
        json.dumps({"coco_train2017_121647.jpg": ["a pizza and a glass"]})
    )
    done = run_quickly(
        "extract_features",
        *("--images", natural / "natural_images", "--captions", "captions.json", "--out", "r.h5"),
        *("--backbone", ROOT / "configs/backbones/mobilenetv2.yaml", "--model", natural / "models/mnv2.onnx"),
        *("--detector", ROOT / "configs/backbones/yolox_nano.yaml"),
        *("--detector_model", natural / "models/yolox_nano.onnx"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    image = open_features(tmp_path / "r.h5")[0]
    assert {"wine glass", "pizza", "dining table"} <= set(image.tags[:5])
    assert len(image.features) == len(image.boxes) == len(image.tags) >= 10
