"""Pictures get their classes and captions from folders and lists, and a mistake is named with its line."""

import json
import unicodedata

import numpy as np
import pytest

from config.errors import UserError
from datasets.pictures.files import PictureFiles
from datasets.pictures.lists import class_folders, read_captioned, read_label_list
from tests.picture_files import encoded, noisy, quarters, write_folder, write_zip

PICTURE = encoded(quarters(8, 8))
NAMES = ["Greek/beta/2.png", "Greek/alpha/1.png", "cat dir/a b.jpg", "dog/1.png"]


@pytest.fixture
def files(tmp_path):
    return PictureFiles(write_folder(tmp_path / "p", dict.fromkeys(NAMES, PICTURE)))


def test_folders_are_classes(files, tmp_path):
    found = class_folders(files)
    assert found.class_names == ["Greek/alpha", "Greek/beta", "cat dir", "dog"]
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {
        "Greek/alpha/1.png": 0,
        "Greek/beta/2.png": 1,
        "cat dir/a b.jpg": 2,
        "dog/1.png": 3,
    }
    zipped = class_folders(PictureFiles(write_zip(tmp_path / "p.zip", dict.fromkeys(NAMES, PICTURE))))
    assert zipped.names == found.names and zipped.class_names == found.class_names


def test_a_picture_outside_of_the_class_folders_is_named(tmp_path):
    files = PictureFiles(write_folder(tmp_path / "p", {"dog/1.png": PICTURE, "loose.png": PICTURE}))
    with pytest.raises(UserError, match="1 of 2 pictures lie in no folder, such as loose.png"):
        class_folders(files)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_keep_their_order_and_close_gaps_between_labels(files, tmp_path, end):
    path = tmp_path / "train.txt"
    lines = ["dog/1.png 1000", "cat dir/a b.jpg 7", "Greek/alpha/1.png\t30", "Greek/beta/2.png 7"]
    path.write_bytes((end.join(lines) + end).encode())
    found = read_label_list(path, files)
    assert found.names == ["dog/1.png", "cat dir/a b.jpg", "Greek/alpha/1.png", "Greek/beta/2.png"]
    assert found.labels.tolist() == [2, 0, 1, 0] and found.labels.dtype == np.int64
    assert found.class_names == ["7", "30", "1000"]


def test_labels_may_be_words(files, tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("dog/1.png dog\ncat dir/a b.jpg cat\n")
    assert read_label_list(path, files).class_names == ["cat", "dog"]


@pytest.mark.parametrize("mark", ["\t", ",", ";", " ; ", "|", ", "])
def test_a_mark_between_path_and_label(files, tmp_path, mark):
    path = tmp_path / "train.txt"
    labels = ["red cola", "green tea", "red cola", "tea"]
    path.write_text("".join(f"{name}{mark}{label}\n" for name, label in zip(NAMES, labels, strict=True)))
    found = read_label_list(path, files)
    assert found.names == NAMES
    assert [found.class_names[label] for label in found.labels] == labels


def test_commas_inside_names_are_no_mark(tmp_path):
    names = ["a, b.png", "c.png"]
    files = PictureFiles(write_folder(tmp_path / "p", dict.fromkeys(names, PICTURE)))
    (tmp_path / "l.txt").write_text("a, b.png 1\nc.png 2\n")
    assert read_label_list(tmp_path / "l.txt", files).names == names


def test_the_list_of_stanford_online_products(tmp_path):
    names = ["bicycle_final/111_0.JPG", "bicycle_final/111_1.JPG", "chair_final/222_0.JPG"]
    files = PictureFiles(write_folder(tmp_path / "sop", dict.fromkeys(names, PICTURE)))
    path = tmp_path / "Ebay_train.txt"
    rows = [
        "image_id class_id super_class_id path",
        f"1 1 1 {names[0]}",
        f"2 1 1 {names[1]}",
        f"9 5 2 {names[2]}",
    ]
    path.write_bytes("\r\n".join(rows).encode())
    found = read_label_list(path, files)
    assert (found.names, found.labels.tolist(), found.class_names) == (names, [0, 0, 1], ["1", "5"])


IN_SHOP = ["item_1/a.jpg", "item_1/b.jpg", "item_2/a.jpg", "item_3/a.jpg", "item_3/b.jpg"]


def write_in_shop(path, count=5):
    splits = ["train", "train", "train", "query", "gallery"]
    rows = [f"{name:<20}{name[:6]:<12}{split}" for name, split in zip(IN_SHOP, splits, strict=True)]
    path.write_text("\n".join([str(count), "image_name item_id evaluation_status", *rows, ""]))


def write_csv_list(path):
    rows = ["label,path,split,is_query,is_gallery"]
    rows += [f'{name[5]},"{name}",train,,' for name in IN_SHOP[:3]]
    rows += [f"3,{IN_SHOP[3]},validation,True,False", f"3,{IN_SHOP[4]},validation,False,1"]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("write", "classes"), [(write_in_shop, "item_{}"), (write_csv_list, "{}")])
def test_lists_that_name_splits(tmp_path, write, classes):
    files = PictureFiles(write_folder(tmp_path / "shop", dict.fromkeys(IN_SHOP, PICTURE)))
    write(tmp_path / "list.txt")
    expected = {"train": (IN_SHOP[:3], "12"), "query": (IN_SHOP[3:4], "3"), "gallery": (IN_SHOP[4:], "3")}
    for split, (names, items) in expected.items():
        found = read_label_list(tmp_path / "list.txt", files, split)
        assert (found.names, found.class_names) == (names, [classes.format(item) for item in items])
    with pytest.raises(UserError, match=r"list.txt: no picture of the split 'dev', it has gallery, query"):
        read_label_list(tmp_path / "list.txt", files, "dev")


def test_a_list_of_in_shop_that_was_cut(files, tmp_path):
    write_in_shop(tmp_path / "list.txt", count=6)
    with pytest.raises(UserError, match="list.txt: its first line says 6 pictures, and 5 follow"):
        read_label_list(tmp_path / "list.txt", files, "train")


MISTAKES = {
    "a missing picture": ("dog/1.png 1\ndog/9.png 1\n", r"l.txt line 2: no picture for 'dog/9.png'"),
    "one missing behind a header": (
        "image_id class_id super_class_id path\n1 1 1 dog/1.png\n2 1 1 dog/9.png\n",
        "l.txt line 3: no picture",
    ),
    "no label": ("dog/1.png 1\ncat\n", "l.txt line 2: expected a picture's path and its label, got 'cat'"),
    "too few columns": (
        "image_id class_id super_class_id path\n1 1 dog/1.png\n",
        "l.txt line 2: expected image_id class_id super_class_id path, got '1 1 dog/1.png'",
    ),
    "a picture twice": ("dog/1.png 1\ndog/1.png 2\n", "l.txt line 2: dog/1.png again, also on line 1"),
    "an empty line": ("dog/1.png 1\n\ndog/1.png 2\n", "l.txt line 2: empty picture and label"),
    "nothing": ("", "l.txt: empty file"),
    "a CSV with a row too short": ("label,path,split\n1,dog/1.png\n", "l.txt line 2: 2 columns, expected 3"),
    "a CSV without a label": ("label,path\n,dog/1.png\n", "l.txt line 2: expected a path and a label"),
    "a header alone": ("image_id class_id super_class_id path\n", "l.txt: a header and no pictures"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_lists_are_named_with_their_line(files, tmp_path, name):
    text, message = MISTAKES[name]
    path = tmp_path / "l.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_label_list(path, files)


CAPTIONS = {"dog/1.png": ["a dog", "the dog"], "a b.jpg": ["a cat"]}


def write_csv(path, with_split):
    rows = ["image,caption,split"] if with_split else ["image,caption"]
    for name, texts in CAPTIONS.items():
        rows += [
            f"{name},{text}" + (",train" if with_split and "dog" in name else ",test" * with_split)
            for text in texts
        ]
    path.write_text("\n".join(rows))


def write_karpathy(path):
    images = [
        {
            "filename": name,
            "split": "train" if "dog" in name else "test",
            "sentences": [{"raw": text} for text in texts],
        }
        for name, texts in CAPTIONS.items()
    ]
    path.write_text(json.dumps({"images": images}))


def write_records(path):
    records = [
        {"image": name, "captions": texts, "split": "train" if "dog" in name else "test"}
        for name, texts in CAPTIONS.items()
    ]
    path.write_text(json.dumps(records))


def write_coco(path):
    images = [{"id": number, "file_name": name} for number, name in enumerate(CAPTIONS)]
    annotations = [
        {"image_id": number, "caption": text}
        for number, texts in enumerate(CAPTIONS.values())
        for text in texts
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


WRITERS = {
    "split.csv": lambda path: write_csv(path, True),
    "plain.csv": lambda path: write_csv(path, False),
    "karpathy.json": write_karpathy,
    "records.json": write_records,
    "plain coco.json": write_coco,
    "plain.json": lambda path: path.write_text(json.dumps(CAPTIONS)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_of_a_caption_file(files, tmp_path, name):
    WRITERS[name](tmp_path / name)
    listing, pictures = read_captioned(files, tmp_path / name)
    assert pictures == ["dog/1.png", "cat dir/a b.jpg"]
    assert listing.captions == ["a dog", "the dog", "a cat"] and listing.caption_image == [0, 0, 1]
    if "plain" in name:
        with pytest.raises(UserError, match="names no splits to choose from"):
            read_captioned(files, tmp_path / name, ["test"])
    else:
        listing, pictures = read_captioned(files, tmp_path / name, ["test"])
        assert (pictures, listing.captions) == (["cat dir/a b.jpg"], ["a cat"])
        with pytest.raises(UserError, match="no captions of the split 'dev'"):
            read_captioned(files, tmp_path / name, ["dev"])


def test_mistakes_of_caption_files_are_named(files, tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\ndog/1.png,a dog\nnone.png,nothing\n")
    with pytest.raises(UserError, match=r"a.csv line 3: no picture for 'none.png' in .*: add it"):
        read_captioned(files, tmp_path / "a.csv")
    records = [{"image": name, "caption": "a picture"} for name in ("dog/1.png", "x")]
    (tmp_path / "b.json").write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"b.json record 2: no picture for 'x' in .*: add it"):
        read_captioned(files, tmp_path / "b.json")
    write_coco(tmp_path / "c.json")
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text().replace("a b.jpg", "x.jpg"))
    with pytest.raises(UserError, match=r"c.json images\[1\]: no picture for 'x.jpg' in .*: add it"):
        read_captioned(files, tmp_path / "c.json")
    (tmp_path / "a.json").write_text('{"dog/1.png": "a dog"}')
    with pytest.raises(UserError, match="'dog/1.png': expected a list of captions, got \"a dog\""):
        read_captioned(files, tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("image,caption,split\ndog/1.png,a dog,train\ndog/1.png,a dog,test\n")
    with pytest.raises(
        UserError, match="a.csv line 3: 'dog/1.png' is of the split 'test', and of 'train' before"
    ):
        read_captioned(files, tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"a.csv: an empty file, expected image,caption"):
        read_captioned(files, tmp_path / "a.csv")
    with pytest.raises(UserError, match="ends with .csv or .json"):
        read_captioned(files, tmp_path / "a.txt")


def test_a_class_has_one_name_whatever_its_letters_are_made_of(tmp_path):
    forms = [unicodedata.normalize(form, "größe") for form in ("NFC", "NFD")]
    for row, form in enumerate(forms):
        (tmp_path / "p" / form).mkdir(parents=True)
        (tmp_path / "p" / form / f"{row}.png").write_bytes(encoded(noisy(4, 4)))
    (tmp_path / "l.txt").write_text("".join(f"{row}.png {form}\n" for row, form in enumerate(forms)))
    files = PictureFiles(tmp_path / "p")
    for found in (read_label_list(tmp_path / "l.txt", files), class_folders(files)):
        assert (found.labels.tolist(), found.class_names) == ([0, 0], [forms[0]])
