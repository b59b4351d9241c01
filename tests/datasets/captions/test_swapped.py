"""Swapped captions that cannot be read are refused on one line."""

import pytest

from config.errors import UserError
from datasets.captions.swapped import SwappedPair, load_swapped

LINE = b'{"image_id": "a", "kind": "sides", "caption": "x left of y", "swapped": "y left of x"}\n'


def test_a_pair_a_line_is_read(tmp_path):
    (tmp_path / "dev_swapped.jsonl").write_bytes(LINE * 2)
    pair = SwappedPair("a", "sides", "x left of y", "y left of x")
    assert load_swapped(tmp_path, "dev") == [pair, pair]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "expected swapped captions in .*test_swapped.jsonl, got none"),
        (LINE + b"{}\n", "expected image_id, .*line 2"),
        (LINE + b"\xff\n", "test_swapped.jsonl line 2: byte 0xff is not UTF-8"),
    ],
    ids=["no file", "another object", "not UTF-8"],
)
def test_mistakes_are_named(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "test_swapped.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        load_swapped(tmp_path)
    assert "\n" not in str(caught.value)
