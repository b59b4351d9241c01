"""A condition finds the items that a plain evaluation of it finds; what is mistyped is named."""

import json

import pytest

from config.errors import UserError
from serving.index.filters import Comparison, Junction, parse_filter
from serving.index.items import Item, Items

METADATA = [
    {},
    {"year": 2010, "place": "Berlin", "tags": ["dog", "park"]},
    {"year": 2010.5, "place": "Bern", "tags": ["cat", 3], "seen": True},
    {"year": "2010", "seen": False, "camera": {"maker": "Leica", "lens mm": 50}},
    {"year": 1999, "place": 'say "hi"', "tags": "dogs", "seen": None, "camera": {"maker": "Nikon"}},
    {"year": -3e2, "place": "", "tags": [], "seen": 1},
]
KEYS = ["year", "place", "tags", "seen", "camera", "camera.maker", "camera.lens mm"]


@pytest.fixture
def items(tmp_path):
    items = Items(tmp_path, create=True)
    items.insert(
        [Item(f"i{row}", f"a dog {row}" if row else None, each) for row, each in enumerate(METADATA)]
    )
    yield items
    items.close()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("year >= 2010", [1, 2]),
        ("year < 2010", [4, 5]),
        ("year = 2010", [1]),
        ('year = "2010"', [3]),
        ("year != 2010", [2, 3, 4, 5]),
        ("not year = 2010", [0, 2, 3, 4, 5]),
        ("not (year > 2000 or has tags)", [0, 3]),
        ("has seen", [2, 3, 5]),
        ("seen = true", [2]),
        ("seen = 1", [5]),
        ("seen != true", [3, 5]),
        ('tags contains "dog"', [1, 4]),
        ("tags contains 3", [2]),
        ('place in ["Bern", "Berlin"] and year > 2010', [2]),
        ('place contains "er"', [1, 2]),
        ('place = "say \\"hi\\""', [4]),
        ('camera.maker = "Leica"', [3]),
        ('"camera.lens mm" > 49.5', [3]),
        ('id = "i2" or caption contains "dog 4"', [2, 4]),
        ("not has caption", [0]),
        ("year >= 2010 and year <= 2010 or year = 1999", [1, 4]),
        ("year >= 2010 and (year <= 2010 or year = 1999)", [1]),
        ("year = -300", [5]),
        ("year > 1e400", []),
        ("year < 99999999999999999999", [1, 2, 4, 5]),
    ],
)
def test_what_is_found(items, text, rows):
    assert items.rows_where(parse_filter(text, KEYS)).tolist() == rows


def test_what_a_condition_is_made_of():
    assert parse_filter('not a = 1 and b in ["x"]', ["a", "b"]) == Junction(
        "and", (Junction("not", (Comparison("a", "=", 1),)), Comparison("b", "in", ("x",)))
    )


def test_keys_are_those_of_all_metadata(items):
    assert sorted(items.keys()) == sorted(KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yaer > 3", "no item has the key 'yaer'; did you mean year?"),
        ("camera.makr = 1", "did you mean camera.maker"),
        ("xyzzy = 1", "there are id, caption, year, place, tags and 4 more"),
        ("year >", "expected a value .* got the end .character 7 of 'year >'"),
        ("year == 3", 'expected "=", got "==" .character 6 of'),
        ("year 3", "expected one of = != < .* after year, got 3"),
        ("year = 3 place = 2", 'expected "and", "or" or the end, got place'),
        ("(year = 3", 'expected .\\). got the end|expected "\\)", got the end'),
        ("year = 'x'", "cannot read \"'x'\""),
        ("year in 3", 'expected "\\[", got 3'),
        ("and", "expected a key, got and"),
        ("year = 3; DROP TABLE items", "cannot read '; DROP TABLE items'"),
        ("id = 3", "id is a text, got 3: write it in double quotes"),
        ("(" * 99 + "year = 1" + ")" * 99, "more than 40 conditions inside each other"),
        ("", "expected a key, got the end"),
    ],
)
def test_mistakes_are_told_in_one_line(items, text, message):
    with pytest.raises(UserError, match=message) as caught:
        items.rows_where(parse_filter(text, KEYS))
    assert "\n" not in str(caught.value)


def test_keys_that_could_not_be_written_are_kept_as_metadata(tmp_path):
    strange = {'a"b': 1, "a.b": 2, "": 3, "ä b": {"c": 4}}
    items = Items(tmp_path, create=True)
    items.insert([Item("i", None, strange)])
    assert items.at([0])[0].metadata == strange and sorted(items.keys()) == ["ä b", "ä b.c"]
    assert items.rows_where(
        parse_filter(f"{json.dumps('ä b.c', ensure_ascii=False)} = 4", items.keys())
    ).tolist() == [0]
    items.close()
