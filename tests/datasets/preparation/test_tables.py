"""Every layout of caption tables gives the same rows; those that cannot be read are listed, not lost."""

import json
from pathlib import Path

import pytest

from config.errors import UserError
from datasets.preparation.columns import Columns, choose_columns
from datasets.preparation.problems import EMPTY, MALFORMED, MISSING, UNNAMED, Problems
from datasets.preparation.tables import Row, Table, read_table

WANTED = [
    ("a.jpg", "a red dog", "train"),
    ("a.jpg", "a dog, running", "train"),
    ("b 1.jpg", "two cats", "test"),
]


def read(path: Path, content: str | list | dict, **columns: object) -> tuple[Table, Problems]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    problems = Problems()
    return read_table(path, Columns(**columns), problems), problems


def values(table: Table, with_splits: bool = True) -> list[tuple[str, ...]]:
    return [(row.picture, row.caption, row.split)[: 3 if with_splits else 2] for row in table.rows]


WITH_SPLITS = {
    "a.csv": 'image,caption,split\na.jpg,a red dog,train\na.jpg,"a dog, running",train\n'
    "b 1.jpg,two cats,test\n",
    "semicolons.csv": "Image;Caption;Split\r\na.jpg;a red dog;train\r\na.jpg;a dog, running;train\r\n\r\n"
    "b 1.jpg;two cats;test",
    "a.tsv": "\ufeffsplit\tfile_name\ttext\ntrain\ta.jpg\ta red dog\ntrain\ta.jpg\ta dog, running\n"
    "test\tb 1.jpg\ttwo cats\n",
    "columns.csv": 'photo,caption_1,caption_2,split\na.jpg,a red dog,"a dog, running",train\n'
    "b 1.jpg,two cats,,test\n",
    "a.jsonl": "\n".join(
        json.dumps(dict(zip(("image", "caption", "split"), row, strict=True))) for row in WANTED
    ),
    "records.json": [
        {"image": "a.jpg", "captions": ["a red dog", "a dog, running"], "split": "train"},
        {"image": "b 1.jpg", "captions": "two cats", "split": "test"},
    ],
    "karpathy.json": {
        "images": [
            {
                "filename": "a.jpg",
                "split": "train",
                "sentences": [{"raw": "a red dog"}, {"tokens": ["a", "dog,", "running"]}],
            },
            {"filename": "b 1.jpg", "split": "test", "sentences": [{"raw": "two cats"}]},
        ]
    },
}
WITHOUT_SPLITS = {
    "results.csv": "image_name| comment_number| comment\na.jpg| 0| a red dog\na.jpg| 1| a dog, running\n"
    "b 1.jpg| 0| two cats\n",
    "Flickr.token.txt": "a.jpg#0\ta red dog\na.jpg#1\ta dog, running\nb 1.jpg#0\ttwo cats\n",
    "captions.txt": 'image,caption\na.jpg,a red dog\na.jpg,"a dog, running"\nb 1.jpg,two cats\n',
    "mapping.json": {"a.jpg": ["a red dog", "a dog, running"], "b 1.jpg": "two cats"},
    "coco.json": {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b 1.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": "a red dog"},
            {"image_id": 7, "caption": "a dog, running"},
            {"image_id": 8, "caption": "two cats"},
        ],
    },
}


@pytest.mark.parametrize("name", WITH_SPLITS)
def test_layouts_with_splits_give_the_same_rows(tmp_path, name) -> None:
    table, problems = read(tmp_path / name, WITH_SPLITS[name])
    assert values(table) == WANTED and not problems.found


@pytest.mark.parametrize("name", WITHOUT_SPLITS)
def test_layouts_without_splits_give_the_same_rows(tmp_path, name) -> None:
    table, problems = read(tmp_path / name, WITHOUT_SPLITS[name])
    assert [(picture, caption.strip()) for picture, caption, _ in values(table)] == [
        row[:2] for row in WANTED
    ]
    assert not problems.found


def test_named_columns_count_whatever_they_are_called(tmp_path) -> None:
    content = "Bild,Nr,Satz,Teil\na.jpg,1,ein Hund,train\n"
    table, _ = read(tmp_path / "a.csv", content, picture="bild", captions=("Satz",), split="Teil")
    assert table.rows == [Row("line 2", "a.jpg", "ein Hund", "train")]
    assert table.described == "CSV: pictures from Bild, captions from Satz, splits from Teil"


UNDECIDED = {
    "no caption": (
        ["image", "words"],
        "no column holds captions among its 2: image, words: name it with --caption_column",
    ),
    "two captions": (
        ["image", "caption", "comment"],
        r"several columns may hold captions \(caption, comment\)",
    ),
    "two pictures": (
        ["image", "file_name", "caption"],
        r"the pictures' names \(image, file_name\).*--image_column",
    ),
    "no header": (
        ["a.jpg", "Three guys posing"],
        "Three guys posing: .*; the first line of a table must name its columns, such as image,caption",
    ),
    "no picture": (["id", "caption"], "no column holds the pictures' names"),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_a_header_that_does_not_decide_asks_for_the_column(case) -> None:
    header, message = UNDECIDED[case]
    with pytest.raises(UserError, match=message):
        choose_columns("a.csv line 1", header, Columns())


@pytest.mark.parametrize("header", [["Three guys " * 30] * 9, [f"image {'x' * 90} {n}" for n in range(9)]])
def test_a_long_row_in_place_of_the_header_is_one_short_line(header) -> None:
    with pytest.raises(UserError) as error:
        choose_columns("a.csv line 1", header, Columns())
    assert len(str(error.value)) <= 300


def test_a_named_column_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(UserError, match="--caption_column: no column 'Satz' among its 2: image, caption"):
        choose_columns("a.csv line 1", ["image", "caption"], Columns(captions=("Satz",)))


def test_all_rows_that_fail_are_listed_with_their_place(tmp_path) -> None:
    content = "image,caption\na.jpg,one, two\n,three\nb.jpg\nc.jpg,four\n"
    table, problems = read(tmp_path / "a.csv", content)
    assert values(table, False) == [("c.jpg", "four")]
    assert problems.found == {
        MALFORMED: [
            "line 2: 3 columns, expected 2: a.jpg,one, two",
            "line 4: 1 columns, expected 2: b.jpg",
        ],
        UNNAMED: ["line 3: ,three"],
    }


def test_faults_inside_json_are_listed_too(tmp_path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, 5],
        "annotations": [{"image_id": 2}, 3, {"image_id": 1, "caption": 4}],
    }
    table, problems = read(tmp_path / "a.json", content)
    assert table.rows == []
    assert problems.found == {
        MISSING: ["annotations[0]: no image has the id 2"],
        MALFORMED: [
            "annotations[1]: expected an object with image_id and caption",
            "annotations[2]: expected a caption, got 4",
        ],
    }
    sentences = [{"raw": 5}, {"tokens": 3}, 7, {}]
    table, problems = read(tmp_path / "k.json", {"images": [{"filename": "x", "sentences": sentences}, 1]})
    assert table.rows == [Row("images[0]", "x", "")]
    assert problems.found[MALFORMED] == [
        *(f"images[0]: expected a caption, got {value}" for value in (5, 3, 7)),
        "images[1]: expected an object with filename and sentences",
    ]
    table, problems = read(tmp_path / "a.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"image":\n[1]\n')
    assert [row.place for row in table.rows] == ["line 1"]
    assert problems.found[MALFORMED] == ['line 2: not JSON: {"image":', "line 3: expected a record, got [1]"]


def test_a_picture_without_any_caption_in_its_columns_is_empty(tmp_path) -> None:
    table, problems = read(tmp_path / "a.csv", "image,caption1,caption2\na.jpg,,\nb.jpg,x,\n")
    assert values(table, False) == [("b.jpg", "x")] and problems.found == {EMPTY: ["line 2: a.jpg"]}


REFUSED = {
    "a.xlsx": ("x", "export it as CSV in UTF-8"),
    "empty.csv": ("\n \n", "empty file, expected a caption a row"),
    "one.csv": ("caption\na dog\n", "line 1: one column, expected a header"),
    "quote.csv": (
        'image,caption\na.jpg,"open\nb.jpg,two\n',
        "line 2: not CSV: .* close the quote that opens there",
    ),
    "bad.json": ('{"a.jpg": ["x"', "line 1: not JSON"),
    "number.json": ("[1, 2]", "no records, expected some such as"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_without_a_layout_is_one_line(tmp_path, name) -> None:
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)


def test_another_encoding_names_the_line(tmp_path) -> None:
    (tmp_path / "a.csv").write_bytes("image,caption\na.jpg,Straße\n".encode("cp1252"))
    with pytest.raises(UserError, match="a.csv line 2: byte 0xdf is not UTF-8"):
        read_table(tmp_path / "a.csv", Columns(), Problems())


@pytest.mark.parametrize(
    ("content", "line"),
    [("image,caption\na.jpg,a dog\n".encode("utf-16-le"), 1), (b"image,caption\na.jpg,a \0 dog\n", 2)],
)
def test_a_table_in_utf_16_and_one_with_bytes_of_zero_are_told(tmp_path, content, line):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(
        UserError, match=f"a.csv line {line}: a byte of zero, as UTF-16 has: save the file as text"
    ):
        read_table(tmp_path / "a.csv", Columns(), Problems())
