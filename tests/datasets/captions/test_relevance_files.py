"""Right pairs come from equal sentences, from JSON or from CSV; what does not fit is named in one line."""

import json
import unicodedata

import numpy as np
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.captions.relevance_files import by_sentence, read_relevance

TEXTS = ["a dog", "a cat", "a dog", "two dogs", "a dog", "a cat"]
SPLIT = CaptionSplit("test", ["x", "y", "z"], np.arange(3), TEXTS, np.array([0, 0, 1, 1, 2, 2]))


def pairs_of(relevance):
    return list(zip(relevance.images.tolist(), relevance.captions.tolist(), strict=True))


def test_a_sentence_is_one_query_of_all_its_images():
    found = by_sentence(SPLIT, np.zeros(3, int))
    assert found.captions == ["a dog", "a cat", "two dogs"]
    assert pairs_of(found.relevance) == [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_a_sentence_is_one_query_in_each_fold():
    found = by_sentence(SPLIT, np.array([0, 0, 1]))
    assert found.captions == ["a dog", "a cat", "two dogs", "a dog", "a cat"]
    assert found.caption_image.tolist() == [0, 0, 1, 2, 2]
    assert pairs_of(found.relevance) == [(0, 0), (0, 1), (1, 0), (1, 2), (2, 3), (2, 4)]


def test_training_keeps_captions_apart_and_knows_all_images_of_their_sentence():
    found = by_sentence(SPLIT)
    assert found.captions == TEXTS
    right = [(image, place) for image in range(3) for place, text in enumerate(TEXTS)]
    own = {image: {TEXTS[place] for place in (2 * image, 2 * image + 1)} for image in range(3)}
    assert pairs_of(found.relevance) == [
        (image, place) for image, place in right if TEXTS[place] in own[image]
    ]


@pytest.mark.parametrize("ids", [None, ["c0", "c1", "c2", "c3", "c4", "c5"]])
def test_json_of_caption_ids(tmp_path, ids):
    split = CaptionSplit(*list(SPLIT.__dict__.values())[:5], ids)
    names = ids or [0, "1", 2, 3, 4, 5]
    (tmp_path / "r.json").write_text(json.dumps({"z": [names[0], names[5]], "x": [names[2]]}))
    assert pairs_of(read_relevance(tmp_path / "r.json", split)) == [(0, 2), (2, 0), (2, 5)]


def test_csv_with_grades(tmp_path):
    (tmp_path / "r.csv").write_text("caption,image,grade\n1,x,3\n4,x,2.5\n0,y,0\n\n2,z,5\n")
    found = read_relevance(tmp_path / "r.csv", SPLIT)
    assert pairs_of(found) == [(0, 1), (0, 4), (2, 2)] and found.grades.tolist() == [3, 2.5, 5]
    found = read_relevance(tmp_path / "r.csv", SPLIT, least=3)
    assert pairs_of(found) == [(0, 1), (2, 2)] and found.rule == "file r.csv, grade 3 or more"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", '{"w": [1]}', "image 'w': the image 'w' is not in test, whose image ids are x, y, z"),
        (
            "r.json",
            '{"x": [9]}',
            "image 'x': the caption '9' is not in test, whose caption ids are 0, 1, 2, 3",
        ),
        ("r.json", '{"x": 1}', "image 'x': expected a list of caption ids, got 1"),
        ("r.json", "[1]", "expected an object, image id -> list of caption ids, got [1]"),
        ("r.json", '{"x": [', "line 1: not JSON"),
        ("r.json", "{}", "no pair of test is right"),
        (
            "r.csv",
            "a,b\n",
            "line 1: expected the columns image, caption and, if pairs have grades, grade, got a, b",
        ),
        ("r.csv", "image,caption,grade\nx,1,good\n", "line 2: expected a grade of 0 or more, got 'good'"),
        ("r.csv", "image,caption,grade\nx,1,nan\n", "line 2: expected a grade of 0 or more, got 'nan'"),
        ("r.csv", "image,caption\nx\n", "line 2: 1 columns, expected 2"),
        ("r.csv", "image,caption,grade\nx,1,0\n", "no pair of test is right"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        read_relevance(tmp_path / name, SPLIT)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("kind", ["r.json", "r.csv"])
def test_names_may_be_in_another_form_of_unicode(tmp_path, forms, kind):
    names = [[unicodedata.normalize(form, name) for name in ("café.jpg", "한강.jpg")] for form in forms]
    split = CaptionSplit("test", names[0], np.arange(2), ["a", "b"], np.arange(2))
    content = json.dumps({names[1][0]: [1], names[1][1]: [0]})
    if kind == "r.csv":
        content = f"image,caption\n{names[1][0]},1\n{names[1][1]},0\n"
    (tmp_path / kind).write_text(content, encoding="utf-8")
    found = read_relevance(tmp_path / kind, split)
    assert sorted(zip(found.images.tolist(), found.captions.tolist(), strict=True)) == [(0, 1), (1, 0)]
