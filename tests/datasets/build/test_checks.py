"""A folder is checked whole: all that is wrong is found at once, and traps of known data sets are noted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.load import load_config
from datasets.build.checks import Findings, check_data
from datasets.build.known_sets import KNOWN_SETS
from datasets.features.npy import NpyFeatures

SPLITS = {"train": 12, "dev": 4, "test": 5}


def write(folder: Path, split: str, images: int, seed: int, ids: bool = True, each: int = 2) -> None:
    features = np.random.default_rng(seed).normal(size=(images, 6)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", features)
    texts = [f"a {split} dog number {row} said {time}" for row in range(images) for time in range(each)]
    (folder / f"{split}_caps.txt").write_text("".join(f"{text}\n" for text in texts))
    if ids:
        (folder / f"{split}_ids.txt").write_text("".join(f"{split}_{row}.jpg\n" for row in range(images)))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return the folder of a data set in which nothing is wrong."""
    for seed, (split, images) in enumerate(SPLITS.items()):
        write(tmp_path, split, images, seed)
    return tmp_path


def check(folder: Path, *keys: str, values: bool = True) -> Findings:
    return check_data(
        load_config(None, [f"DATASET.DATA_DIR={folder}", "INPUT.IMG_FEATURE_DIM=6", *keys]), values
    )


def edit(folder: Path, split: str, change) -> None:
    rows = np.load(folder / f"{split}_ims.npy")
    np.save(folder / f"{split}_ims.npy", change(rows))


def test_nothing_is_wrong_with_a_whole_folder(folder):
    found = check(folder)
    assert found.wrong == found.notes == []
    assert found.facts[2] == "test: 5 images (6 features, float32), 10 captions, 2 an image"


def nan(rows):
    rows[[1, 3, 4]] = np.nan
    return rows


DAMAGES = {
    "nan": (lambda folder: edit(folder, "test", nan), "3 rows with NaN or infinity: 2, 4, 5"),
    "zeros": (lambda folder: edit(folder, "dev", lambda rows: rows * 0), "4 rows of zeros alone: 1, 2, 3, 4"),
    "a caption short": (
        lambda folder: (folder / "dev_caps.txt").write_text("a dog\n" * 7),
        "dev_caps.txt: 7 captions for the 4 images",
    ),
    "empty captions": (
        lambda folder: (folder / "test_caps.txt").write_text("a\n\nb\n\n" + "c\n" * 6),
        "test_caps.txt: 2 empty lines: 2, 4",
    ),
    "bytes": (
        lambda folder: (folder / "test_caps.txt").write_bytes(b"a\n" * 7 + b"\xff\n\xfe\nb\n"),
        "test_caps.txt: 2 lines that are not UTF-8: 8, 9",
    ),
    "another width": (lambda folder: edit(folder, "dev", lambda rows: rows[:, :5]), "features are 5 wide"),
    "a cut file": (
        lambda folder: (folder / "dev_ims.npy").write_bytes((folder / "dev_ims.npy").read_bytes()[:-8]),
        "dev_ims.npy: cut short",
    ),
    "no features": (lambda folder: (folder / "train_ims.npy").unlink(), "train_ims.npy: no such file"),
    "an id in two splits": (
        lambda folder: (folder / "dev_ids.txt").write_text("a\nb\ntrain_3.jpg\ntrain_0.jpg\n"),
        "train and dev: 2 images are in both: train_3.jpg, train_0.jpg",
    ),
    "an image in two splits": (
        lambda folder: edit(
            folder, "test", lambda rows: np.r_[np.load(folder / "train_ims.npy")[7:8], rows[1:]]
        ),
        "train and test: 1 images of both have exactly the same features, rows 8 and 1",
    ),
    "an id twice": (
        lambda folder: (folder / "dev_ids.txt").write_text("a\nb\na\nc\n"),
        "dev_ids.txt line 3: duplicate image id 'a'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_found(folder, damage):
    spoil, says = DAMAGES[damage]
    spoil(folder)
    assert any(says in line for line in check(folder).wrong), check(folder).wrong


def test_all_that_is_wrong_is_found_at_once(folder):
    for damage in ("a caption short", "nan", "no features"):
        DAMAGES[damage][0](folder)
    wrong = "\n".join(check(folder).wrong)
    assert all(DAMAGES[damage][1] in wrong for damage in ("a caption short", "nan", "no features"))
    assert "NaN" not in "\n".join(check(folder, values=False).wrong)


def test_features_are_read_block_by_block_and_once(folder, monkeypatch):
    read = []
    plain = NpyFeatures._read

    def watched(self, rows, counts):
        read.append((self.path.name, rows.tolist()))
        return plain(self, rows, counts)

    monkeypatch.setattr(NpyFeatures, "_read", watched)
    monkeypatch.setattr("datasets.features.store._BLOCK_BYTES", 3 * 6 * 4)
    assert check(folder).wrong == []
    assert max(len(rows) for _, rows in read) == 3
    for split, images in SPLITS.items():
        rows = [row for name, some in read if name == f"{split}_ims.npy" for row in some]
        assert rows == list(range(images))


def test_a_row_for_each_caption_is_told_from_a_row_for_each_image(folder):
    (folder / "test_ids.txt").unlink()
    edit(folder, "test", lambda rows: np.repeat(rows, 2, axis=0))
    found = check(folder)
    assert found.wrong == []
    assert any(
        note.startswith("test: 10 rows for 10 captions") and "5 different images" in note
        for note in found.notes
    )
    assert any("nothing names the images" in note for note in found.notes)
    edit(folder, "test", lambda rows: np.r_[rows[:1], rows[:1], rows[:1], rows[3:]])
    assert any("rows repeat 1 to 3 times" in line for line in check(folder).wrong)


def test_sentences_of_two_splits_are_noted(folder):
    texts = (folder / "train_caps.txt").read_text().splitlines()[:3] + [f"new {row}" for row in range(7)]
    (folder / "test_caps.txt").write_text("\n".join(texts) + "\n")
    found = check(folder)
    assert found.wrong == []
    assert found.notes == ["3 of the 10 different sentences of test (30%) are those of train too"]


@pytest.mark.parametrize(
    ("name", "split", "images", "folds", "says"),
    [
        ("f30k", "dev", 1014, 1, "VSRN validate on its first 5,000 captions alone"),
        ("f30k", "dev", 1000, 1, ""),
        ("coco", "train", 82_783, 1, "without the 30,504 of restval"),
        ("coco", "test", 1000, 5, "DATASET.TEST=testall EVAL.FOLDS=5"),
        ("coco", "testall", 5000, 1, "the 5K protocol"),
        ("coco", "testall", 5000, 5, ""),
        ("coco", "dev", 1000, 1, "a part of the 5,000"),
    ],
)
def test_traps_of_known_folders_are_noted(name, split, images, folds, says):
    assert images in KNOWN_SETS[name].images[split]
    note = KNOWN_SETS[name].surprise(split, images, 5 * images, folds)
    assert says in note and bool(note) == bool(says)


def test_a_number_of_images_that_a_known_set_does_not_have_is_wrong(folder):
    wrong = check(folder, "DATASET.NAME=f8k").wrong
    assert len(wrong) == 3 and "test: 5 images, expected 1,000 of f8k (Hodosh et al. (2013))" in wrong[2]


def test_restval_that_is_not_trained_on_is_noted(folder):
    images, ids = [], []
    for split, count in (("train", 3), ("restval", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            ids.append(f"{split}_{number}.jpg")
            sentences = [{"raw": f"a {split} dog {number}"}]
            images.append({"filename": ids[-1], "split": split, "cocoid": len(ids), "sentences": sentences})
    (folder / "karpathy.json").write_text(json.dumps({"images": images}))
    np.save(folder / "all.npy", np.random.default_rng(5).normal(size=(11, 6)).astype(np.float32))
    (folder / "all_ids.txt").write_text("\n".join(ids) + "\n")
    keys = ["DATASET.FORMAT=karpathy", "DATASET.CAPTION_FILE=karpathy.json", "DATASET.FEAT_FILE=all.npy"]
    found = check(folder, *keys, "DATASET.DEV=val")
    assert found.wrong == []
    assert [note for note in found.notes if "4 images of the split restval are not trained on" in note]
    assert not check(folder, *keys, "DATASET.DEV=val", "DATASET.USE_RESTVAL=true").notes


def test_pictures_are_opened_and_compared(tmp_path):
    for split, classes in (("train", "ab"), ("test", "cd")):
        lines = []
        for label in classes:
            for number in range(2):
                path = tmp_path / "images" / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (number * 90, 10, 10)).save(path)
                lines.append(f"{label}/{number}.png {label}\n")
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    keys = ["MODEL.NAME=cnn", "MODEL.CNN=resnet18", "LOSS.NAME=softmax", "DATASET.IMAGE_DIR=images"]
    keys += ["DATASET.LABEL_FILE={split}.txt", "DATASET.DEV=test", "MONITOR.BEST_METRIC=r1"]
    assert check(tmp_path, *keys).wrong == []
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"")
    (tmp_path / "test.txt").write_text("c/0.png c\nc/1.png c\na/0.png a\na/1.png a\n")
    wrong = "\n".join(check(tmp_path, *keys).wrong)
    assert "1 unreadable pictures of train: a/1.png (zero bytes)" in wrong
    assert "train and test: 2 images are in both: a/0.png, a/1.png" in wrong
