"""Captions of any language become tokens."""

import sys
import unicodedata
from pathlib import Path
from random import Random

import pytest

from config.errors import UserError
from datasets.names import composed
from datasets.words import tokens as tokens_module
from datasets.words.letters import runs_words_together
from datasets.words.tokens import TOKENIZERS, tokenize

CAPTIONS = sorted(Path(__file__).resolve().parents[4].glob("shared/data/*_precomp/*_caps.txt"))


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("Two dogs, and a CAT.", ["two", "dogs", ",", "and", "a", "cat", "."]),
        ("the man's dog isn't here", ["the", "man", "'s", "dog", "isn't", "here"]),
        ("the man’s t-shirt", ["the", "man", "'s", "t-shirt"]),
        ("a snow-covered 'roof' - red", ["a", "snow-covered", "'", "roof", "'", "-", "red"]),
        ("3,000 croissants at 5:30, 2.5 m", ["3,000", "croissants", "at", "5", ":", "30", ",", "2.5", "m"]),
        ("ÉRIC et Zoë", ["éric", "et", "zoë"]),
        ("stray  spaces .", ["stray", "spaces", "."]),
        ("snow\u2010covered, snow\u2011covered", ["snow-covered", ",", "snow-covered"]),
        ("м\u02bcякий", ["м'який"]),  # an apostrophe that is a letter to Unicode
        ("\U0001f1e9\U0001f1ea flag", ["\U0001f1e9\U0001f1ea", "flag"]),
    ],
)
def test_simple_tokens(caption, tokens):
    assert tokenize(caption, "simple") == tokens


def test_a_half_width_mark_belongs_to_its_letter():
    assert tokenize("\uff76\uff9e\uff9d", "characters") == ["\uff76\uff9e", "\uff9d"]


def test_whitespace_keeps_what_stands_between_spaces():
    assert tokenize(" A dog's life . ", "whitespace") == ["A", "dog's", "life", "."]


def test_nltk_lower_cases_ascii_letters_alone_as_the_originals_do():
    assert tokenize("Éric's DOG isn't here!", "nltk") == ["Éric", "'s", "dog", "is", "n't", "here", "!"]


def test_missing_nltk_names_the_package(monkeypatch):
    tokens_module.check_nltk.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk", None)  # an import of it fails
    for caption in ("a dog", "a dog (black)"):
        with pytest.raises(UserError, match="pip install nltk"):
            tokenize(caption, "nltk")


PIECES = (
    *(
        "a",
        "b",
        "dog",
        "the",
        "1",
        "23",
        ",",
        ".",
        "-",
        "'",
        "'s",
        "s",
        " ",
        " ",
        " ",
        "can",
        "not",
        "n't",
        "d'ye",
    ),
    *(
        "cannot",
        "gimme",
        "gonna",
        "wanna",
        "lemme",
        "gotta",
        "more'n",
        "'tis",
        "''",
        '"',
        ":",
        ";",
        "?",
        "(",
        "\t",
    ),
    *("é", "’", "`", "_", "man's", "3,000", "e.g.", "--", "..."),
)


def test_tokens_by_few_rules_are_those_of_nltk_on_random_captions():
    by_nltk = tokens_module._nltk_tokenizer().tokenize
    random = Random(0)
    by_few = 0
    for _ in range(20_000):
        caption = "".join(random.choices(PIECES[: random.choice((17, len(PIECES)))], k=random.randint(0, 12)))
        stripped = caption.strip().encode().lower().decode()
        assert tokenize(caption, "nltk") == by_nltk(composed(stripped)), caption
        if tokens_module._PLAIN.fullmatch(stripped):
            by_few += tokens_module._plain_nltk(stripped) is not None
    assert by_few > 2000


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man, who can't, sits .", ["a", "man", ",", "who", "ca", "n't", ",", "sits", "."]),
        (
            "the dog's owner, 3,000 miles away.",
            ["the", "dog", "'s", "owner", ",", "3,000", "miles", "away", "."],
        ),
        ("he cannot-stop", ["he", "can", "not", "-stop"]),
        ("snow-covered roofs", ["snow-covered", "roofs"]),
        ("dogs' x", ["dogs", "'", "x"]),
        (".", ["."]),
        ("", []),
    ],
)
def test_nltk_tokens(caption, tokens):
    assert tokenize(caption, "nltk") == tokens


@pytest.mark.skipif(not CAPTIONS, reason="needs the shared caption files")
def test_tokens_by_few_rules_are_those_of_nltk_on_real_captions():
    by_nltk = tokens_module._nltk_tokenizer().tokenize
    captions = [line for path in CAPTIONS for line in path.read_text("utf-8").splitlines()[::7]]
    for caption in dict.fromkeys(captions):
        assert tokenize(caption, "nltk") == by_nltk(composed(caption.strip()).encode().lower().decode())


def test_unknown_tokenizer_lists_the_choices():
    with pytest.raises(ValueError, match="simple, characters, nltk, whitespace"):
        tokenize("a dog", "spacy")


@pytest.mark.parametrize(
    "caption",
    [
        "हिन्दी में पानी",  # Hindi: vowel signs and virama are marks
        "দুটি কুকুর দৌড়াচ্ছে",  # Bengali
        "தமிழ் மொழி",  # Tamil
        "người đàn ông đi xe đạp",  # Vietnamese
        "كَلْبٌ يَجْرِي فِي الثَّلْجِ",  # Arabic with its points
        "כֶּלֶב רָץ",  # Hebrew with its points
        "می‌خواهم بروم",  # Persian: a joiner stands inside the word
        "col·legi il·lusió",  # Catalan: a dot stands inside the word
        "צה״ל ג׳ירפה",  # Hebrew: so do marks of abbreviations and foreign sounds
        "검은 개가 눈 위를 달린다",  # Korean
        "ё й щётка",  # Cyrillic
        "x̂ y̆",  # letters that have no composed form
    ],
)
@pytest.mark.parametrize("tokenizer", ["simple", "characters", "whitespace"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_mark_belongs_to_its_letter(caption: str, tokenizer: str, form: str) -> None:
    expected = unicodedata.normalize("NFC", caption).split()
    assert tokenize(unicodedata.normalize(form, caption), tokenizer) == expected


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_both_forms_of_a_text_have_the_same_tokens(tokenizer: str) -> None:
    caption = "Café von Zoë, người, 한강, हिन्दी, ग़ज़ल, が"
    tokens = tokenize(unicodedata.normalize("NFC", caption), tokenizer)
    assert tokenize(unicodedata.normalize("NFD", caption), tokenizer) == tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("一只黑狗在雪地里跑。", list("一只黑狗在雪地里跑。")),
        ("一只Husky狗，3只猫", ["一", "只", "husky", "狗", "，", "3", "只", "猫"]),
        ("スケボーに乗る", list("スケボーに乗る")),
        ("か\u3099く", ["が", "く"]),
        ("คนขี่ม้า", ["ค", "น", "ขี่", "ม้", "า"]),
        ("ដើរ", ["ដើ", "រ"]),
        ("A man's t-shirt, 2.5 m", ["a", "man", "'s", "t-shirt", ",", "2.5", "m"]),
        ("검은 개 हिन्दी", ["검은", "개", "हिन्दी"]),
    ],
)
def test_characters_are_letters_where_no_spaces_are_written(caption: str, tokens: list[str]) -> None:
    assert tokenize(caption, "characters") == tokens


@pytest.mark.parametrize("tokenizer", ["simple", "characters"])
@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("\ufeffco\u00adoperate now\u200bhere", ["cooperate", "now", "here"]),
        ("\u200fכלב\u200e", ["כלב"]),
        ("👨‍👩‍👧 ❤️👍🏽", ["👨‍👩‍👧", "❤️", "👍🏽"]),
        ("İstanbul ΣΟΦΟΣ", ["i̇stanbul", "ΣΟΦΟΣ".lower()]),
    ],
)
def test_what_steers_the_display_is_no_token(tokenizer: str, caption: str, tokens: list[str]) -> None:
    assert tokenize(caption, tokenizer) == tokens


TOGETHER = {
    "Chinese": ["一个男孩在公园跑。", "一只黑狗，在雪地里", "女孩看书"],
    "Japanese": ["黒い犬が雪の上を走っている", "スケートボードに乗る少年"],
    "Thai": ["ผู้ชายขี่ม้าในทุ่งหญ้า", "หมาดำวิ่งบนหิมะ"],
    "Lao": ["ຜູ້ຊາຍຂີ່ມ້າໃນທົ່ງຫຍ້າ"],
    "Khmer": ["បុរសម្នាក់ជិះសេះក្នុងវាលស្មៅ"],
    "Burmese": ["လူတစ်ယောက်မြင်းစီးနေသည်"],
    "Chinese among English": ["a dog"] * 5 + ["一个男孩在公园跑"],
}
APART = {
    "segmented Chinese": ["一个 男孩 在 公园 跑 。", "一 只 黑 狗 在 雪地 里"],
    "segmented Japanese": ["スケートボード に 乗る 少年", "黒い 犬 が 走っ て いる"],
    "segmented Thai": ["ผู้ชาย ขี่ ม้า ใน ทุ่งหญ้า"],
    "English": ["a dog runs", "a man’s café"],
    "Korean": ["검은 개가 눈 위를 달린다"],
    "Hindi": ["हिन्दी में पानी"],
    "hardly any Chinese": ["a dog"] * 50 + ["一个男孩在公园跑"],
    "nothing": [],
}


@pytest.mark.parametrize("language", [*TOGETHER, *APART])
def test_captions_that_run_words_together_are_recognised(language: str) -> None:
    assert runs_words_together((TOGETHER | APART)[language]) == (language in TOGETHER)
