"""Captions are tied to images and rows as the files say, and files that disagree are refused."""

import json

import numpy as np
import pytest

from config.errors import UserError
from datasets.captions.load import load_captions, read_captions
from datasets.features.npy import NpyFeatures

FOUR_IMAGES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
KARPATHY = {
    "images": [
        {
            "filename": "b 1.jpg",
            "cocoid": 7,
            "imgid": 0,
            "split": "train",
            "sentences": [{"raw": " A dog. "}],
        },
        {"filename": "x.jpg", "cocoid": 8, "imgid": 1, "split": "val", "sentences": [{"raw": "a cat"}]},
        {"filename": "r.jpg", "cocoid": 9, "imgid": 2, "split": "restval", "sentences": [{"raw": "rest"}]},
        {
            "filename": "a.jpg",
            "cocoid": 5,
            "imgid": 3,
            "split": "train",
            "sentences": [{"tokens": ["two", "dogs"]}, {"raw": "three", "tokens": ["3"]}],
        },
    ]
}
CSV = """image,caption,split
b 1.jpg,"A dog, and a cat",train
x.jpg,a cat,val
a.jpg,two dogs,train
b 1.jpg,again,train
"""


def load(folder, format="precomp", split="train", caption_file="", per_image=0, restval=False):
    features = NpyFeatures(folder / f"{split}_ims.npy")
    return load_captions(format, folder, split, caption_file, features, per_image, restval)


def save_features(folder, rows, split="train"):
    np.save(folder / f"{split}_ims.npy", np.arange(rows * 2, dtype=np.float32).reshape(rows, 2))


@pytest.mark.parametrize("ids", [None, ["Pond_1.jpg", "a b.jpg", "C.tif", "9"]])
def test_one_row_an_image_shares_it_among_equally_many_captions(precomp, ids):
    split = load(precomp(captions=[f"caption {k}" for k in range(12)], ids=ids))
    assert split.image_ids == (ids or ["0", "1", "2", "3"])
    assert split.image_rows.tolist() == [0, 1, 2, 3]
    assert split.caption_image.tolist() == [k // 3 for k in range(12)]


def test_one_row_a_caption_groups_equal_rows_in_succession(precomp):
    # three captions of image 0, one of image 1, two of image 0 again: a new image, for the rows are apart
    split = load(precomp(features=FOUR_IMAGES[[0, 0, 0, 1, 0, 0]], captions=list("abcdef")))
    assert split.caption_image.tolist() == [0, 0, 0, 1, 2, 2]
    assert split.image_rows.tolist() == [0, 3, 4]


def test_one_row_a_caption_with_a_given_count_needs_no_equal_rows(precomp):
    split = load(precomp(captions=list("abcd")), per_image=2)
    assert split.caption_image.tolist() == [0, 0, 1, 1]
    assert split.image_rows.tolist() == [0, 2]


def test_one_caption_an_image_may_show_the_same_picture_twice(precomp):
    split = load(precomp(features=FOUR_IMAGES[[0, 0, 1]], captions=list("abc")), per_image=1)
    assert split.caption_image.tolist() == [0, 1, 2]


@pytest.mark.parametrize("rows", [2, 5])
def test_an_id_a_caption_allows_any_number_of_captions(precomp, rows):
    features = np.repeat(FOUR_IMAGES[:1], rows, axis=0)
    split = load(precomp(features=features, captions=list("abcde"), ids=["y", "y", "y", "x", "x"]))
    assert split.image_ids == ["y", "x"]
    assert split.caption_image.tolist() == [0, 0, 0, 1, 1]
    assert split.image_rows.tolist() == ([0, 1] if rows == 2 else [0, 3])


def test_byte_order_mark_windows_line_ends_and_stray_spaces_are_no_part_of_a_caption(precomp):
    folder = precomp(features=FOUR_IMAGES[:1])
    (folder / "train_caps.txt").write_bytes("\ufeffa caf\u00e9 \r\n  many\u2028planes .\r\n".encode())
    (folder / "train_ids.txt").write_bytes(b"\xef\xbb\xbfAirport 1.jpg\r\n")
    split = load(folder)
    assert split.captions == ["a café", "many\u2028planes ."]  # only a line feed ends a line
    assert split.image_ids == ["Airport 1.jpg"]


def test_karpathy_takes_the_images_of_its_split_in_the_order_of_the_file(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(KARPATHY))
    save_features(tmp_path, 2)
    split = load(tmp_path, "karpathy", caption_file="dataset.json")
    assert split.image_ids == ["b 1.jpg", "a.jpg"]
    assert split.captions == ["A dog.", "two dogs", "three"]
    assert split.caption_image.tolist() == [0, 1, 1]
    assert split.image_rows.tolist() == [0, 1]


def test_karpathy_adds_restval_on_request(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(KARPATHY))
    save_features(tmp_path, 3)
    split = load(tmp_path, "karpathy", caption_file="dataset.json", restval=True)
    assert split.image_ids == ["b 1.jpg", "r.jpg", "a.jpg"]
    assert read_captions("karpathy", tmp_path, "train", "dataset.json", True) == split.captions


@pytest.mark.parametrize("ids", [["9", "5", "7"], ["a.jpg", "b 1.jpg", "other.jpg"], ["3", "2", "0"]])
def test_an_ids_file_maps_images_to_rows_by_filename_cocoid_or_imgid(tmp_path, ids):
    (tmp_path / "dataset.json").write_text(json.dumps(KARPATHY))
    (tmp_path / "train_ids.txt").write_text("\n".join(ids))
    save_features(tmp_path, 3)
    split = load(tmp_path, "karpathy", caption_file="dataset.json")
    wanted = {"9": [2, 1], "a.jpg": [1, 0], "3": [2, 0]}[ids[0]]
    assert split.image_rows.tolist() == wanted


def test_csv_groups_the_lines_of_an_image_wherever_they_stand(tmp_path):
    (tmp_path / "all.csv").write_text(CSV)
    save_features(tmp_path, 2)
    split = load(tmp_path, "csv", caption_file="all.csv")
    assert split.image_ids == ["b 1.jpg", "a.jpg"]
    assert split.captions == ["A dog, and a cat", "two dogs", "again"]
    assert split.caption_image.tolist() == [0, 1, 0]


def test_csv_without_a_split_column_is_one_file_a_split(tmp_path):
    (tmp_path / "train.csv").write_text(
        "\ufeffCaption,Image\r\na dog,1.jpg\r\n\r\na cat,2.jpg\r\n", encoding="utf-8"
    )
    (tmp_path / "train_ids.txt").write_text("2.jpg\n1.jpg\n")
    save_features(tmp_path, 2)
    split = load(tmp_path, "csv", caption_file="{split}.csv")
    assert split.captions == ["a dog", "a cat"]
    assert split.image_rows.tolist() == [1, 0]


RECORDS = [
    {"image": "b 1.jpg", "caption": " A dog, and a cat ", "split": "train"},
    {"image": "x.jpg", "captions": ["a cat"], "split": "val"},
    {"image": "a.jpg", "captions": ["two dogs"], "split": "train", "url": "further keys are ignored"},
    {"image": "b 1.jpg", "caption": ["again"], "split": "train"},
]
COCO = {
    "info": {"year": 2014},
    "images": [{"id": 7, "file_name": "b 1.jpg"}, {"id": 5, "file_name": "a.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": " A dog, and a cat "},
        {"id": 2, "image_id": 5, "caption": "two dogs"},
        {"id": 3, "image_id": 7, "caption": "again"},
    ],
}
BY_IMAGE = {"b 1.jpg ": ["A dog, and a cat", "again"], "a.jpg": ["two dogs"]}
WITHOUT_SPLITS = {
    "records": [
        {key: value for key, value in record.items() if key != "split"}
        for record in RECORDS
        if record["split"] == "train"
    ],
    "COCO": COCO,
    "by image": BY_IMAGE,
}


def test_json_takes_the_records_of_its_split_wherever_they_stand(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps(RECORDS))
    save_features(tmp_path, 2)
    split = load(tmp_path, "json", caption_file="all.json")
    assert split.image_ids == ["b 1.jpg", "a.jpg"]
    assert split.captions == ["A dog, and a cat", "two dogs", "again"]
    assert split.caption_image.tolist() == [0, 1, 0]
    assert read_captions("json", tmp_path, "val", "all.json", False) == ["a cat"]


@pytest.mark.parametrize("form", WITHOUT_SPLITS)
def test_json_without_splits_is_one_file_a_split(tmp_path, form):
    (tmp_path / "captions_train.json").write_text("\ufeff" + json.dumps(WITHOUT_SPLITS[form]), "utf-8")
    (tmp_path / "train_ids.txt").write_text("a.jpg\nb 1.jpg\n")
    save_features(tmp_path, 2)
    split = load(tmp_path, "json", caption_file="captions_{split}.json")
    assert (split.image_ids, split.image_rows.tolist()) == (["b 1.jpg", "a.jpg"], [1, 0])
    of_image = [[], []]
    for caption, image in zip(split.captions, split.caption_image, strict=True):
        of_image[image].append(caption)
    assert of_image == [["A dog, and a cat", "again"], ["two dogs"]]


@pytest.mark.parametrize("row_ids", [["5", "9", "7"], ["a.jpg", "x", "b 1.jpg"], ["a", "x", "b 1"]], ids=str)
def test_features_with_ids_are_found_by_any_name_in_cocos_file(tmp_path, row_ids):
    (tmp_path / "train.json").write_text(json.dumps(COCO))
    assert load_by_id(tmp_path, row_ids, "json", "{split}.json").image_rows.tolist() == [2, 0]


PRECOMP_FAULTS = {
    "captions missing": (lambda d: (d / "train_caps.txt").unlink(), ["train_caps.txt: no such file"]),
    "captions no multiple": (
        lambda d: (d / "train_caps.txt").write_text("a\nb\nc\nd\ne\n"),
        ["train_caps.txt: 5 captions for the 4 images", "train_ims.npy", "4 (1 an image; 1 line too many)"],
    ),
    "a caption missing": (
        lambda d: (d / "train_caps.txt").write_text("a\nb\nc\nd\ne\nf\ng\n"),
        ["train_caps.txt: 7 captions for the 4 images", "such as 8 (2 an image; 1 line missing)"],
    ),
    "captions too few": (
        lambda d: (d / "train_caps.txt").write_text("a\nb\n"),
        ["2 captions for the 4 images", "such as 4 (1 an image; 2 lines missing)"],
    ),
    "empty file": (lambda d: (d / "train_caps.txt").write_text(""), ["train_caps.txt: empty file"]),
    "empty caption": (
        lambda d: (d / "train_caps.txt").write_text("a\n \t\nc\nd\n"),
        ["train_caps.txt line 2: empty caption"],
    ),
    "not utf-8": (
        lambda d: (d / "train_caps.txt").write_bytes(b"a\nb\nc\nna\xefve\n"),
        ["train_caps.txt line 4: byte 0xef is not UTF-8"],
    ),
    "duplicate id": (
        lambda d: (d / "train_ids.txt").write_text("w\nx\ny\nx\n"),
        ["train_ids.txt line 4: duplicate image id 'x', also line 2"],
    ),
    "ids too few": (
        lambda d: (d / "train_ids.txt").write_text("w\nx\ny\n"),
        ["train_ids.txt: 3 image ids", "4 rows", "(1 line missing)", "8 captions", "(5 lines missing)"],
    ),
    "an image twice among ids of captions": (
        lambda d: (d / "train_ids.txt").write_text("w\nw\nx\nx\ny\nx\nz\nz\n"),
        ["train_ids.txt line 6: duplicate image id 'x', also on line 3"],
    ),
    "ids of captions against rows": (
        lambda d: (d / "train_ids.txt").write_text("w\nw\nw\nx\nx\nx\ny\ny\n"),
        ["3 different image ids", "4 rows"],
    ),
}


@pytest.mark.parametrize("fault", PRECOMP_FAULTS)
def test_precomp_files_that_disagree_are_refused_with_file_and_line(precomp, fault):
    break_folder, expected = PRECOMP_FAULTS[fault]
    folder = precomp()
    break_folder(folder)
    check_refused(lambda: load(folder), expected)


def test_a_given_count_that_does_not_fit_is_refused(precomp):
    folder = precomp(captions=[str(k) for k in range(8)])
    expected = ["8 captions for the 4 images", "expected 12 (3 an image; 4 lines missing)"]
    check_refused(lambda: load(folder, per_image=3), expected)
    folder = precomp(captions=list("abcd"))
    check_refused(lambda: load(folder, per_image=3), ["4 captions and rows", "CAPTIONS_PER_IMAGE (3)"])


def test_ids_of_rows_that_are_too_few_are_counted(tmp_path):
    (tmp_path / "all.csv").write_text(CSV)
    (tmp_path / "train_ids.txt").write_text("b 1.jpg\na.jpg\n")
    save_features(tmp_path, 5)
    expected = ["train_ids.txt: 2 image ids", "5 rows", "3 lines missing"]
    check_refused(lambda: load(tmp_path, "csv", caption_file="all.csv"), expected)


def change(index, **entries):
    return {
        "images": [{**image, **(entries if k == index else {})} for k, image in enumerate(KARPATHY["images"])]
    }


LISTING_FAULTS = {
    "no file named": ("karpathy", "", "", ["DATASET.CAPTION_FILE"]),
    "missing": ("karpathy", "other.json", "", ["other.json: no such file"]),
    "not json": ("karpathy", "c", '{"images":\n [}', ["c line 2: not JSON"]),
    "no images": ("karpathy", "c", "[]", ["the list 'images'"]),
    "another JSON": ("karpathy", "c", '{"images": [{"id": 7}]}', ["its sentences", "DATASET.FORMAT=json"]),
    "no such split": (
        "karpathy",
        "c",
        json.dumps(change(0, split="x")).replace("train", "dev"),
        ["dev", "val"],
    ),
    "no sentences": ("karpathy", "c", json.dumps(change(3, sentences=[])), ["images[3] ('a.jpg'): expected"]),
    "empty sentence": (
        "karpathy",
        "c",
        json.dumps(change(3, sentences=[{"raw": "x"}, {"raw": " "}])),
        ["images[3] ('a.jpg').sentences[1]: empty caption"],
    ),
    "file twice": (
        "karpathy",
        "c",
        json.dumps(change(3, filename="b 1.jpg")),
        ["image 2 of train: duplicate image id 'b 1.jpg', also image 1 of train"],
    ),
    "header": (
        "csv",
        "c",
        CSV.replace("caption", "captoin"),
        ["c line 1: no column 'caption'", "'captoin'?"],
    ),
    "no header": ("csv", "c", "b.jpg,a dog\n", ["c line 1: no column 'image'", "first line"]),
    "one file, no splits": ("csv", "c", "image,caption\nb.jpg,a dog\n", ["no column 'split'", "{split}.csv"]),
    "bare comma": ("csv", "c", CSV.replace('"', ""), ["c line 2: 4 columns, expected 3", "quotes"]),
    "empty cell": ("csv", "c", CSV.replace("two dogs", " "), ["c line 4: empty caption"]),
    "open quote": ("csv", "c", CSV + '"x', ["c line 6: not CSV"]),
    "rows": ("csv", "c", CSV + "z.jpg,new,train\n", ["3 images for the 2 rows", "train_ims.npy"]),
}


def record(number, **entries):
    return json.dumps([{**RECORDS[k], **(entries if k == number - 1 else {})} for k in range(4)])


def coco(**entries):
    return json.dumps({**COCO, **entries})


JSON_FAULTS = {
    "not json": ('{\n"a.jpg": ["one" "two"]}', ["c.json line 2: not JSON"]),
    "neither form": ('"a caption"', ["c.json: expected", "COCO"]),
    "nothing": ("[]", ["c.json: expected", "COCO"]),
    "Karpathy's": (json.dumps(KARPATHY), ["c.json: this is Karpathy's", "DATASET.FORMAT=karpathy"]),
    "no such split": (record(2, split="dev").replace("train", "test"), ["'train', it holds dev, test"]),
    "no split": (record(3, split=None), ["c.json: record 3: expected the name of a split", "got nothing"]),
    "no record": ('["a.jpg"]', ['c.json: record 1: "a.jpg": expected']),
    "no image": (record(2, image=" "), ["c.json: record 2: expected the name of a picture", 'got " "']),
    "two keys": (
        record(1, captions=["x"]),
        ["record 1 ('b 1.jpg'): expected", "got both"],
    ),
    "no key": ('[{"image": "a.jpg"}]', ["record 1 ('a.jpg'): expected 'caption' or", "got neither"]),
    "empty caption": (record(3, captions=["x", " "]), ["c.json: record 3 ('a.jpg'): empty caption"]),
    "no text": (record(4, caption=7), ["record 4 ('b 1.jpg'): expected a list of captions, got 7"]),
    "two splits": (
        record(4, split="val"),
        ["record 4: 'b 1.jpg' is of the split 'val', and of 'train'"],
    ),
    "an image's text": (
        '{"a.jpg": "a dog"}',
        ["c.json: 'a.jpg': expected a list of captions, got"],
    ),
    "a key without a name": ('{" ": ["x"]}', ["c.json: image 1: expected the name of a picture, got", '" "']),
    "lists in lists": ("[" * 100_000, ["thousands of lists or objects within each other"]),
    "an image twice": ('{"a.jpg": ["x"], "b.jpg": ["x"], "a.jpg": ["y"]}', ["the key 'a.jpg' comes twice"]),
    "no annotations": (coco(annotations=[]), ["c.json: expected the list 'annotations'"]),
    "no images": (coco(images=None), ["c.json: expected the list 'images'"]),
    "no file name": (coco(images=[{"id": 7}]), ["c.json: images[0]: expected 'file_name', got nothing"]),
    "an id twice": (
        coco(images=[COCO["images"][0]] * 2),
        ["image 2: duplicate image id 'b 1.jpg', also image 1"],
    ),
    "no such image": (
        coco(annotations=[*COCO["annotations"], {"image_id": 8, "caption": "x"}]),
        ["c.json: annotations[3]: expected the id of one of the images as 'image_id', got 8"],
    ),
    "no caption": (coco(annotations=[{"image_id": 7}]), ["annotations[0]: empty caption", "got nothing"]),
    "a bare image": (
        coco(annotations=COCO["annotations"][:1]),
        ["c.json: images[1] ('a.jpg'): no annotation has a caption of it"],
    ),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_plain_json_that_is_wrong_is_refused_with_its_record(tmp_path, fault):
    text, expected = JSON_FAULTS[fault]
    (tmp_path / "c.json").write_text(text)
    with_splits = "split" in text
    (tmp_path / "train.json").symlink_to(tmp_path / "c.json")
    save_features(tmp_path, 2)
    name = "c.json" if with_splits else "{split}.json"
    expected = [part if with_splits else part.replace("c.json", "train.json") for part in expected]
    check_refused(lambda: load(tmp_path, "json", caption_file=name), expected)


@pytest.mark.parametrize("form", WITHOUT_SPLITS)
def test_one_json_for_all_splits_must_name_them(tmp_path, form):
    (tmp_path / "c.json").write_text(json.dumps(WITHOUT_SPLITS[form]))
    save_features(tmp_path, 2)
    expected = ["c.json: it names no splits", "DATASET.CAPTION_FILE={split}.json"]
    check_refused(lambda: load(tmp_path, "json", caption_file="c.json"), expected)


@pytest.mark.parametrize("fault", LISTING_FAULTS)
def test_json_and_csv_that_are_wrong_are_refused_with_their_place(tmp_path, fault):
    format, name, text, expected = LISTING_FAULTS[fault]
    (tmp_path / "c").write_text(text)
    save_features(tmp_path, 2)
    check_refused(lambda: load(tmp_path, format, caption_file=name), expected)


def test_an_image_without_a_row_is_named(tmp_path):
    (tmp_path / "all.csv").write_text(CSV)
    (tmp_path / "train_ids.txt").write_text("b 1.jpg\nc.jpg\n")
    save_features(tmp_path, 2)
    expected = ["train_ids.txt: no line for the image 'a.jpg' of", "all.csv line 4: extract"]
    check_refused(lambda: load(tmp_path, "csv", caption_file="all.csv"), expected)
    (tmp_path / "all.json").write_text(json.dumps(RECORDS))
    expected[1] = "all.json record 3: extract"
    check_refused(lambda: load(tmp_path, "json", caption_file="all.json"), expected)
    (tmp_path / "dataset.json").write_text(json.dumps(KARPATHY))
    expected[1] = "dataset.json images[3]: extract"
    check_refused(lambda: load(tmp_path, "karpathy", caption_file="dataset.json"), expected)


def load_by_id(folder, row_ids, format="precomp", caption_file="", per_image=0):
    """Load train captions with features whose rows have these ids."""
    np.save(folder / "all.npy", np.zeros((len(row_ids), 2), np.float32))
    (folder / "all_ids.txt").write_text("".join(f"{row}\n" for row in row_ids))
    features = NpyFeatures(folder / "all.npy", ids_path=folder / "all_ids.txt")
    return load_captions(format, folder, "train", caption_file, features, per_image)


@pytest.mark.parametrize("ids", ["c a", "c c c a a a"])
def test_features_with_ids_serve_a_split_of_their_rows_in_any_order(tmp_path, ids):
    (tmp_path / "train_caps.txt").write_text("1\n2\n3\n4\n5\n6\n")
    (tmp_path / "train_ids.txt").write_text("\n".join(ids.split()))
    split = load_by_id(tmp_path, ["x", "a", "b", "c"])
    assert split.image_ids == ["c", "a"] and split.image_rows.tolist() == [3, 1]
    assert split.caption_image.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "row_ids", [["5", "9", "7"], ["a.jpg", "x", "b 1.jpg"], ["a", "x", "b 1"], ["3", "2", "0"]], ids=str
)
def test_features_with_ids_are_found_by_any_name_in_karpathys_file(tmp_path, row_ids):
    (tmp_path / "c").write_text(json.dumps(KARPATHY))
    (tmp_path / "train_ids.txt").write_text("of\nanother\nfile\n")  # the features' own go first
    split = load_by_id(tmp_path, row_ids, "karpathy", "c")
    assert split.image_ids == ["b 1.jpg", "a.jpg"] and split.image_rows.tolist() == [2, 0]


def test_names_that_differ_in_their_suffix_alone_are_not_mixed_up(tmp_path):
    (tmp_path / "c").write_text("image,caption,split\na.jpg,one,train\na.png,two,train\n")
    check_refused(
        lambda: load_by_id(tmp_path, ["a", "b"], "csv", "c"), ["no row for the image 'a.jpg' and 1"]
    )


BY_ID_FAULTS = {
    "an image without a row": ("a b", "c a", ["all.npy: no row for the image 'c' of", "train_ids.txt"]),
    "no ids": ("a b", None, ["train_ids.txt: no such file", "image ids of", "all.npy"]),
    "ids that do not share the captions": (
        "a b c d",
        "a b c d",
        ["6 captions for the 4 images of", "such as 8 (2 an image"],
    ),
    "an image twice": ("a b", "a b a", ["train_ids.txt line 3: duplicate image id 'a', also line 1"]),
    "an image apart": ("a b", "a a b a b b", ["train_ids.txt line 4: duplicate image id 'a'", "succession"]),
}


@pytest.mark.parametrize("fault", BY_ID_FAULTS)
def test_ids_that_do_not_fit_the_features_are_refused(tmp_path, fault):
    row_ids, ids, expected = BY_ID_FAULTS[fault]
    (tmp_path / "train_caps.txt").write_text("1\n2\n3\n4\n5\n6\n")
    if ids is not None:
        (tmp_path / "train_ids.txt").write_text("\n".join(ids.split()))
    check_refused(lambda: load_by_id(tmp_path, row_ids.split()), expected)


def test_a_listing_names_the_image_that_is_missing_by_the_names_that_fit(tmp_path):
    (tmp_path / "c").write_text(json.dumps(KARPATHY))
    check_refused(lambda: load_by_id(tmp_path, ["7", "8"], "karpathy", "c"), ["no row for the image '5' of"])


def check_refused(action, expected):
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_a_picture_in_two_splits_of_one_file_is_refused(tmp_path):
    rows = "a.jpg,a dog,train\nb.jpg,a cat,dev\na.jpg,a dog runs,test\n"
    (tmp_path / "c.csv").write_text("image,caption,split\n" + rows)
    for split in ("train", "dev", "test"):
        with pytest.raises(
            UserError, match="c.csv line 4: 'a.jpg' is of the split 'test', and of 'train' before"
        ):
            read_captions("csv", tmp_path, split, "c.csv", False)
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": "a dog"}]}
        for name, split in (("caf\u00e9.jpg", "train"), ("b.jpg", "val"), ("cafe\u0301.jpg", "test"))
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": images}))
    with pytest.raises(UserError, match="k.json: 'caf.*.jpg' is of the split 'train', and of 'test': keep"):
        read_captions("karpathy", tmp_path, "train", "k.json", False)
    assert read_captions("karpathy", tmp_path, "val", "k.json", False) == ["a dog"]


@pytest.mark.parametrize("tokens", ["two dogs", ["2", 3, "dogs"], 7, None, [["a"]], {"a": 1}])
def test_tokens_that_are_no_words_are_refused(tmp_path, tokens):
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"tokens": tokens}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image]}))
    expected = r"images\[0\] \('a.jpg'\).sentences\[0\]: expected 'raw', a text, or 'tokens', a list of words"
    with pytest.raises(UserError, match=expected):
        read_captions("karpathy", tmp_path, "train", "k.json", False)
