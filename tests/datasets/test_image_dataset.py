"""Pictures with classes as batches, and pictures in place of features."""

import json
from pathlib import Path

import numpy as np
import pytest

from config.default import default_config
from config.errors import UserError
from config.load import load_config
from datasets.build.dual import load_split
from datasets.build.image import build_image_dataset, build_image_sampler, build_picture_store
from datasets.image_dataset import ClassNames
from datasets.samplers.batches import BatchSampler
from datasets.samplers.classes import ClassSampler, TripletSampler
from tests.picture_files import encoded, noisy, write_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 3 classes with 2, 3 and 4 pictures, as split `train`."""
    pictures = {
        f"train/{name}/{number}.png": encoded(noisy(60, 50, seed=10 * each + number))
        for each, (name, count) in enumerate({"cat": 2, "dog": 3, "eel": 4}.items())
        for number in range(count)
    }
    return write_folder(tmp_path, pictures)


def config(folder: Path, **settings: object):
    cfg = default_config()
    cfg.DATASET.DATA_DIR, cfg.DATASET.IMAGE_DIR = str(folder), "{split}"
    cfg.INPUT.CROP_SIZE, cfg.INPUT.RESIZE = 32, 40
    cfg.LOSS.NAME, cfg.OPTIMIZATION.BATCH_SIZE = "softmax", 4
    for key, value in settings.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_folders_are_classes(folder: Path) -> None:
    dataset = build_image_dataset(config(folder), "train", training=False)
    assert dataset.describe() == "train: 9 pictures of 3 classes"
    assert dataset.class_names == ["cat", "dog", "eel"]
    batch = dataset.batch(np.array([8, 0, 3]), epoch=0)
    assert {name: array.shape for name, array in batch.items()} == {
        "pixels": (3, 3, 32, 32),
        "label": (3,),
        "image_id": (3,),
    }
    assert batch["label"].tolist() == [2, 0, 1]
    assert batch["image_id"].tolist() == [8, 0, 3]


def test_a_list_names_pictures_and_classes(folder: Path) -> None:
    (folder / "some.txt").write_text("eel/3.png 7\ndog/0.png 5\ndog/2.png 5\n")
    cfg = config(folder, DATASET__LABEL_FILE="some.txt")
    dataset = build_image_dataset(cfg, "train", training=False)
    assert dataset.image_ids == ["eel/3.png", "dog/0.png", "dog/2.png"]
    assert dataset.labels.tolist() == [1, 0, 0]
    assert dataset.class_names == ["5", "7"]


def test_training_cuts_anew_each_epoch_and_the_same_again(folder: Path) -> None:
    first, again = (build_image_dataset(config(folder), "train", training=True) for _ in range(2))
    images = np.arange(9)
    cut = first.batch(images, 1)["pixels"]
    np.testing.assert_array_equal(cut, again.batch(images, 1)["pixels"])
    assert (cut != first.batch(images, 2)["pixels"]).any()
    measured = build_image_dataset(config(folder), "train", training=False)
    np.testing.assert_array_equal(measured.batch(images, 1)["pixels"], measured.batch(images, 2)["pixels"])


def test_what_cannot_be_read_is_refused_or_left_out(folder: Path) -> None:
    (folder / "train/dog/1.png").write_bytes(b"")
    dataset = build_image_dataset(config(folder), "train", training=True)
    with pytest.raises(UserError, match=r"dog/1.png: unreadable picture: zero bytes"):
        dataset.batch(np.arange(9), 0)
    dataset = build_image_dataset(config(folder, INPUT__UNREADABLE="skip"), "train", training=True)
    assert dataset.batch(np.arange(9), 0)["image_id"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert dataset.loader.unreadables.describe()[-1] == "unreadable pictures skipped: 1"
    with pytest.raises(UserError, match="none of the 1 pictures of a batch can be read, such as dog/1.png"):
        dataset.batch(np.array([3]), 0)


def test_a_triplet_is_left_out_as_a_whole(folder: Path) -> None:
    (folder / "train/dog/1.png").write_bytes(b"not a picture")
    cfg = config(folder, INPUT__UNREADABLE="skip", LOSS__NAME="triplet")
    dataset = build_image_dataset(cfg, "train", training=True)
    batch = dataset.batch(np.array([0, 1, 5, 2, 3, 8, 6, 7, 1]), 0)
    assert batch["image_id"].tolist() == [0, 1, 5, 6, 7, 1]
    assert len(batch["pixels"]) == 6


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"LOSS__NAME": "triplet", "OPTIMIZATION__BATCH_SIZE": 6}, TripletSampler),
        ({"LOSS__NAME": "quadruplet", "OPTIMIZATION__SAMPLES_PER_CLASS": 2}, ClassSampler),
        ({}, BatchSampler),
    ],
)
def test_the_loss_decides_how_batches_are_made(folder: Path, settings: dict, kind: type) -> None:
    cfg = config(folder, **settings)
    dataset = build_image_dataset(cfg, "train", training=True)
    sampler = build_image_sampler(cfg, dataset)
    assert isinstance(sampler, kind)
    assert sampler.steps_per_epoch() == len(sampler.batches(0)) >= 2


def test_a_class_of_one_picture_is_named(folder: Path) -> None:
    (folder / "train/cat/0.png").unlink()
    cfg = config(folder, LOSS__NAME="quadruplet", OPTIMIZATION__SAMPLES_PER_CLASS=2)
    dataset = build_image_dataset(cfg, "train", training=True)
    with pytest.raises(UserError, match="train, train: class cat has one image, expected two or more"):
        build_image_sampler(cfg, dataset)


def test_class_names_are_written_in_order_of_the_labels() -> None:
    names = ClassNames(["b", "ä"])
    assert len(names) == 2
    assert json.loads(names.to_text()) == ["b", "ä"]


def test_pictures_are_known_by_every_name_that_is_theirs_alone(folder: Path) -> None:
    store = build_picture_store(config(folder), "train", training=False)
    assert len(store) == 9
    assert store.row_of["dog/1.png"] == store.row_of["dog/1"] == 3
    assert store.row_of["3"] == store.row_of["3.png"] == 8  # the one class with four pictures
    assert "0" not in store.row_of
    assert store.gather(np.array([3, 8]), pool=False).shape == (2, 3, 32, 32)


def test_captions_of_a_picture_that_is_missing_are_named_with_their_record(folder: Path) -> None:
    cfg = config(folder, DATASET__FORMAT="json", DATASET__CAPTION_FILE="{split}.json")
    records = [{"image": name, "caption": "a picture"} for name in ("dog/1.png", "cat/1", "3")]
    (folder / "train.json").write_text(json.dumps(records))
    store = build_picture_store(cfg, "train", training=False)
    assert load_split(cfg, "train", store, training=False).image_rows.tolist() == [3, 1, 8]
    records[1]["image"] = "cow.png"
    (folder / "train.json").write_text(json.dumps(records))
    problem = r"train: no picture for the image 'cow.png' of .*train.json record 2: add it"
    with pytest.raises(UserError, match=problem):
        load_split(cfg, "train", store, training=False)


def test_pictures_with_captions_are_cut_by_epoch(folder: Path) -> None:
    store = build_picture_store(config(folder), "train", training=True)
    first = store.gather(np.arange(4), pool=False)
    store.epoch = 1
    assert (store.gather(np.arange(4), pool=False) != first).any()
    store.epoch = 0
    np.testing.assert_array_equal(store.gather(np.arange(4), pool=False), first)
    with pytest.raises(UserError, match="pictures have no feature vectors: extract features"):
        store.vectors(np.arange(2))


def test_ids_of_ucm_captions_mean_pictures_of_their_class(shared: Path) -> None:
    folder = shared / "data" / "ucm_precomp"
    cfg = load_config(
        ROOT / "configs/ucm/vsepp.yaml", [f"DATASET.DATA_DIR={folder}", "DATASET.IMAGE_DIR=../ucm_images"]
    )
    seen: set[str] = set()
    for split, images in (("train", 1680), ("dev", 210), ("test", 210)):
        store = build_picture_store(cfg, split, training=False)
        captions = load_split(cfg, split, store, training=False)
        pictures = [store.image_ids[row] for row in captions.image_rows]
        classes = (folder / f"{split}_class.txt").read_text().split()
        assert [picture.split("/")[0] for picture in pictures] == classes
        assert len(set(pictures) - seen) == images and len(captions.captions) == 5 * images
        seen.update(pictures)
