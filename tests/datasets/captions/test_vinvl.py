"""VinVL's captions, image keys, candidates and tags reach the right images; mistakes take one line."""

import json

import numpy as np
import pytest

from datasets.captions.load import CaptionSplit
from datasets.captions.tags import tags_of_classes, tags_of_features, tags_of_predictions
from datasets.captions.vinvl import load_vinvl_captions, read_caption_index
from datasets.features.box_terms import BoxTermFeatures, open_regions
from datasets.features.npy import NpyFeatures
from datasets.features.tsv import TsvFeatures
from tests.region_files import check_refused, make_regions, write_tsv

CAPTIONS = {
    "image 2": ["a dog", "two dogs", "dogs"],
    "image 0": [" a tree "],
    "image 1": ["a café", "a light"],
}


@pytest.fixture
def folder(tmp_path):
    """VinVL's files for three images: features, predictions and captions."""
    write_tsv(tmp_path / "features.tsv", make_regions([3, 5, 2]), "vinvl")
    (tmp_path / "test_captions.json").write_text(json.dumps(CAPTIONS))
    return tmp_path


@pytest.fixture
def features(folder):
    return TsvFeatures(folder / "features.tsv")


def load(folder, features, **options) -> CaptionSplit:
    return load_vinvl_captions(folder / "test_captions.json", features, **options)


def test_captions_follow_the_keys_of_their_file(folder, features):
    split = load(folder, features)
    assert split.name == "test_captions" and split.image_ids == ["image 2", "image 0", "image 1"]
    assert split.image_rows.tolist() == [2, 0, 1]
    assert split.captions == ["a dog", "two dogs", "dogs", "a tree", "a café", "a light"]
    assert split.caption_image.tolist() == [0, 0, 0, 1, 2, 2]


def test_a_list_of_keys_chooses_images_and_their_order(folder, features):
    (folder / "keys.tsv").write_text("image 1\nimage 2\n")
    split = load(folder, features, keys_path=folder / "keys.tsv", captions_per_image=2, name="test")
    assert split.name == "test" and split.image_ids == ["image 1", "image 2"]
    assert split.image_rows.tolist() == [1, 2]
    assert split.captions == ["a café", "a light", "a dog", "two dogs"]


def test_candidates_point_to_captions_by_image_and_number(folder, features):
    split = load(folder, features)
    lists = {
        "image 0": [["image 2", 2], ["image 0", 0]],
        "image 1": [["image 1", 1], ["image 1", 0]],
        "image 2": [["image 0", 0]],
    }
    (folder / "index.json").write_text(json.dumps(lists))
    pairs = read_caption_index(folder / "index.json", split)
    assert pairs.images.tolist() == [0, 1, 1, 2, 2]
    assert pairs.captions.tolist() == [3, 2, 3, 5, 4]
    first = read_caption_index(folder / "index.json", split, candidates=1)
    assert first.images.tolist() == [0, 1, 2] and first.captions.tolist() == [3, 2, 5]


def test_keys_may_be_numbers_in_an_index(tmp_path):
    split = CaptionSplit("dev", ["7"], np.zeros(1, np.int64), ["a", "b"], np.zeros(2, np.int64))
    (tmp_path / "index.json").write_text('{"7": [[7, 1]]}')
    assert read_caption_index(tmp_path / "index.json", split).captions.tolist() == [1]


def test_tags_come_from_features_predictions_or_classes(folder, features):
    split, images = load(folder, features), make_regions([3, 5, 2])
    expected = [images[name].tags for name in split.image_ids]
    assert list(tags_of_features(features, split)) == expected
    (folder / "predictions.tsv").rename(folder / "others.tsv")
    assert list(tags_of_predictions(folder / "others.tsv", split)) == expected

    (folder / "all_class.txt").write_text("storage_tanks\nairport\npark\n")
    assert list(tags_of_classes(folder / "all_class.txt", split)) == [
        ["storage tanks"],
        ["airport"],
        ["park"],
    ]
    (folder / "all_ids.txt").write_text("image 0\nimage 1\nimage 2\n")
    assert list(tags_of_classes(folder / "all_class.txt", split)) == [
        ["park"],
        ["storage tanks"],
        ["airport"],
    ]


def test_terms_of_boxes_are_added_where_features_lack_them(folder, tmp_path):
    images = make_regions([3, 5, 2])
    wide, narrow = open_regions(folder / "features.tsv", 12), open_regions(folder / "features.tsv", 6)
    assert isinstance(wide, BoxTermFeatures) and not isinstance(narrow, BoxTermFeatures)
    assert (wide.dim, len(wide), wide.max_regions, wide.row_of) == (12, 3, 5, narrow.row_of)
    rows = np.array([2, 0])
    batch = wide.gather(rows, pool=False)  # [2,3,12]
    for place, name in enumerate(("image 2", "image 0")):
        regions = images[name]
        width, height = regions.image_size
        for region, (x1, y1, x2, y2) in enumerate(regions.boxes):
            terms = [x1 / width, y1 / height, x2 / width, y2 / height, (x2 - x1) / width, (y2 - y1) / height]
            np.testing.assert_allclose(batch[place, region, 6:], terms, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(batch[place, : len(regions.boxes), :6], regions.features)
    assert not batch[0, 2:].any()  # the padding has no terms
    assert wide.annotations(0).tags == images["image 0"].tags


def test_sizes_of_images_stand_beside_an_array(tmp_path):
    np.save(tmp_path / "dev_ims.npy", np.ones((2, 1, 3), np.float16))
    np.save(tmp_path / "dev_boxes.npy", np.array([[[0, 0, 8, 8]], [[2, 4, 4, 8]]], np.float32))
    path = tmp_path / "dev_ims.npy"
    lacks = lambda: open_regions(path, 9)  # noqa: E731
    check_refused(lacks, ["dev_ims.npy: row 1 lacks the image's size", "X_sizes.npy"])
    np.save(tmp_path / "dev_sizes.npy", np.array([[8, 16], [8, 16]]))
    np.testing.assert_array_equal(
        open_regions(path, 9).gather(np.array([1]), pool=False),
        [[[1, 1, 1, 0.25, 0.25, 0.5, 0.5, 0.25, 0.25]]],
    )
    np.save(tmp_path / "dev_sizes.npy", np.array([[8, 16]]))
    check_refused(lacks, ["dev_sizes.npy: expected the width and height", "[2, 2]", "[1, 2]"])
    np.save(tmp_path / "dev_sizes.npy", np.array([[8, 0], [8, 16]]))
    check_refused(lacks, ["row 1 has an image of 8 x 0 pixels"])
    (tmp_path / "dev_sizes.npy").write_bytes(b"no array")
    check_refused(lacks, ["dev_sizes.npy is not a .npy file"])
    (tmp_path / "dev_sizes.npy").unlink()
    (tmp_path / "dev_boxes.npy").unlink()
    check_refused(lacks, ["row 1 lacks boxes", "INPUT.IMG_FEATURE_DIM=3"])


def test_features_wider_than_told(folder):
    check_refused(
        lambda: open_regions(folder / "features.tsv", 5),
        ["features.tsv: features are 6 wide, but INPUT.IMG_FEATURE_DIM is 5: add INPUT.IMG_FEATURE_DIM=6"],
    )


def test_features_without_ids(folder, tmp_path):
    np.save(tmp_path / "a_ims.npy", np.ones((3, 2, 6), np.float32))
    check_refused(
        lambda: load(folder, NpyFeatures(tmp_path / "a_ims.npy")), ["a_ims.npy: its rows have no ids"]
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    {
        "no JSON": ('{"image 0": ["a"],\n', ["test_captions.json line", "not JSON"]),
        "no object": ('["a"]', ["test_captions.json: expected a JSON object"]),
        "nothing": ("{}", ["test_captions.json: expected a JSON object"]),
        "no list": ('{"image 0": "a dog"}', ["key 'image 0': expected a list of captions, got 'a dog'"]),
        "no captions": ('{"image 0": []}', ["key 'image 0': expected a list of captions"]),
        "an empty one": ('{"image 0": ["a", " "]}', ["key 'image 0', caption 2", "got ' '"]),
        "a number": ('{"image 0": ["a", 3]}', ["key 'image 0', caption 2", "got 3"]),
        "a key twice": ('{"image 0": ["a"], "image 0": ["b"]}', ["the key 'image 0' comes twice"]),
        "no features": ('{"image 9": ["a"]}', ["features.tsv: no row for the image 'image 9'"]),
    }.values(),
)
def test_captions_that_are_none_are_refused_in_one_line(folder, features, content, expected):
    (folder / "test_captions.json").write_text(content)
    check_refused(lambda: load(folder, features), expected)


def test_keys_that_the_captions_miss(folder, features):
    keys = folder / "keys.tsv"
    for content, expected in {
        "image 0\nimage 7\nimage 8\n": ["no captions of the image 'image 7' and 1 others", "on line 2"],
        "image 0\nimage 0\n": ["keys.tsv line 2: duplicate"],
        "image 0\n\nimage 1\n": ["keys.tsv line 2: empty image key"],
    }.items():
        keys.write_text(content)
        check_refused(lambda: load(folder, features, keys_path=keys), expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    {
        "past the captions": (["image 0", 1], ["entry 1 is ['image 0', 1], but that image has 1 captions"]),
        "negative": (["image 0", -1], ["entry 1 is ['image 0', -1]"]),
        "another image": (["image 9", 0], ["test_captions has no image 'image 9'"]),
        "no pair": (["image 0"], ["entry 1: expected [image key, caption number]"]),
        "no number": (["image 0", "first"], ["entry 1: expected [image key, caption number]"]),
    }.values(),
)
def test_an_index_that_points_elsewhere_is_refused_in_one_line(folder, features, entry, expected):
    path = folder / "index.json"
    path.write_text(json.dumps(dict.fromkeys(CAPTIONS, [entry])))
    check_refused(
        lambda: read_caption_index(path, load(folder, features)), ["index.json: key 'image 2'", *expected]
    )


def test_an_index_without_an_image(folder, features):
    path, split = folder / "index.json", load(folder, features)
    path.write_text('{"image 2": [["image 2", 0]]}')
    check_refused(
        lambda: read_caption_index(path, split), ["index.json: no candidates of the image 'image 0'"]
    )
    path.write_text(json.dumps(dict.fromkeys(CAPTIONS, [])))
    check_refused(lambda: read_caption_index(path, split), ["index.json: key 'image 2': expected a list of"])


def test_tags_that_miss_an_image(folder, features):
    split = load(folder, features)
    lines = (folder / "predictions.tsv").read_text().splitlines(keepends=True)
    (folder / "predictions.tsv").write_text("".join(line for line in lines if not line.startswith("image 0")))
    check_refused(
        lambda: list(tags_of_features(TsvFeatures(folder / "features.tsv"), split)),
        ["predictions.tsv: no line for the image 'image 0'"],
    )
    check_refused(
        lambda: list(tags_of_predictions(folder / "predictions.tsv", split)),
        ["predictions.tsv: no line for the image 'image 0'"],
    )
    (folder / "predictions.tsv").unlink()
    check_refused(
        lambda: list(tags_of_features(TsvFeatures(folder / "features.tsv"), split)),
        ["features.tsv: no tags of the image 'image 2'", "INPUT.ADD_OD_LABEL=False"],
    )
    (folder / "a_class.txt").write_text("park\nport\n")
    check_refused(
        lambda: list(tags_of_classes(folder / "a_class.txt", split)),
        ["a_class.txt: 2 classes for the 3 images"],
    )
    (folder / "a_ids.txt").write_text("image 0\nimage 1\n")
    check_refused(
        lambda: list(tags_of_classes(folder / "a_class.txt", split)),
        ["a_ids.txt: no line for the image 'image 2'"],
    )
