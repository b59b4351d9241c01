"""What the tools share."""

import pytest

from tools._command import folder_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle, left of it", "a_red_circle_left_of_it"),
        ("circle 红色", "circle_红色"),
        ("val/COCO-12.jpg", "val_COCO-12.jpg"),
        ("../../etc", "etc"),
        ("?!", "query"),
        ("", "query"),
    ],
)
def test_any_text_becomes_the_name_of_one_folder(text, expected):
    assert folder_name(text, "query") == expected
