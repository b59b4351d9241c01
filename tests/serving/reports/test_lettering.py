"""Text keeps to its room, and letters of every script are drawn, never boxes."""

import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serving.reports import lettering
from serving.reports.lettering import fitted, length, write

LANGUAGES = {
    "Vietnamese": "người đàn ông",
    "Chinese": "一只黑狗",
    "Japanese": "黒い犬が走る",
    "Korean": "검은 개",
    "Hindi": "हिन्दी",
    "Thai": "ขี่ม้า",
    "Arabic": "كلب",
    "Hebrew": "כלב",
    "Russian": "собака",
    "Greek": "σκύλος",
    "Tamil": "நாய்",
}


def drawn(text: str) -> np.ndarray:
    picture = Image.new("L", (300, 60))
    write(ImageDraw.Draw(picture), (5, 10), text, 20, 255)
    return np.asarray(picture)


def test_long_words_are_cut_to_their_room():
    assert fitted("dog", 100, 14) == "dog"
    cut = fitted("w" * 50, 100, 14)
    assert cut.endswith("...") and length(cut, 14) <= 100 < length(cut.replace("...", "w..."), 14)


@pytest.mark.parametrize("text", ["dog " * 50, "黑狗" * 50, "a" * 10**6, "mixed 狗 " * 10**5, ""])
def test_a_text_is_cut_where_it_no_longer_fits(text):
    cut = fitted(text, 300, 17)
    assert length(cut, 17) <= 300
    whole = " ".join(text.split())
    if cut != whole:
        more = whole[: len(cut) - 2] + "..."
        assert whole.startswith(cut[:-3]) and length(more, 17) > 300


def test_a_line_of_text_stays_one_line():
    assert fitted("two\nlines\tof", 1000, 14) == "two lines of"


@pytest.mark.parametrize("language", LANGUAGES)
def test_letters_of_all_scripts_are_no_boxes(language):
    text = LANGUAGES[language]
    assert "?" not in [part for _, part in lettering._runs(text, 20)]
    for char in set(text):
        if unicodedata.category(char)[0] == "L":
            shown = drawn(char)
            assert shown.any()
            # what a font lacks is drawn alike, whatever it is
            for own, part in lettering._runs(char, 20):
                assert bytes(own.getmask(part)) != bytes(own.getmask("\U0010fffd")), char


def test_without_the_fonts_letters_lose_accents_or_become_question_marks(monkeypatch):
    monkeypatch.setattr(lettering, "_files", dict)
    assert "".join(part for _, part in lettering._runs("café người 黑狗 हिन्दी", 12)) == "cafe nguoi ?? ???"


@pytest.mark.parametrize("anchor", ["la", "mm", "lm", "rs", "ls", "rm"])
def test_letters_beyond_ascii_stand_where_the_others_do(anchor):
    boxes = []
    for text in ("xxxx", "хххх"):  # the second is Cyrillic
        picture = Image.new("L", (300, 100))
        write(ImageDraw.Draw(picture), (150, 50), text, 20, 255, anchor)
        boxes.append(np.array(picture.getbbox()))
    assert np.abs(boxes[0] - boxes[1]).max() <= 8
