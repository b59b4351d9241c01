"""Tokenizers: from a caption to its tokens."""

import functools
import re
from collections.abc import Callable

from config.errors import UserError
from datasets.names import composed
from datasets.words.letters import (
    FLAGS,
    JOINERS,
    SKIN_TONES,
    UNSPACED,
    marks,
    unspaced_letter,
    visible,
)


def tokenize(text: str, tokenizer: str) -> list[str]:
    """Split a caption, in the form NFC, into tokens.

    `simple` lower-cases and takes words with their inner hyphens and apostrophes, numbers, the possessive 's,
    and each punctuation mark. `characters` takes each letter of a script without spaces between words by
    itself, and all else as `simple` does. In both a mark belongs to its letter. `nltk` takes NLTK's word
    tokens of the caption with ASCII letters lower-cased, as VSE++, SCAN and VSRN do (but a full stop inside a
    caption stays with its word: no sentence splitter is run). `whitespace` splits at white space and keeps
    case, as VSE does.

    Raises `ValueError` for another name, and `UserError` if nltk is missing.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"unknown tokenizer {tokenizer!r}, expected one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[tokenizer](composed(text))


_ASCII = re.compile(
    r"\d+(?:[.,]\d+)+"  # 3,000  2.5
    r"|\w+(?:(?:-|'(?!s\b))\w+)*"  # dog  snow-covered  isn't
    r"|'s\b"  # dog 's
    r"|[^\w\s]"  # every other character by itself
)


# Apostrophes and hyphens of typesetting, which stand inside words as those of ASCII do.
_ALIKE = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-"})


def _simple(text: str) -> list[str]:
    text = text.lower().translate(_ALIKE)
    if text.isascii():
        return _ASCII.findall(text)
    return _words().findall(composed(visible(text)))


def _characters(text: str) -> list[str]:
    text = text.lower().translate(_ALIKE)
    return _characters_and_words().findall(composed(visible(text)))


@functools.cache
def _words() -> re.Pattern[str]:
    return _pattern(r"\w")


@functools.cache
def _characters_and_words() -> re.Pattern[str]:
    return _pattern(rf"[^\W{UNSPACED}]", unspaced_letter().pattern + "|")


def _pattern(letter: str, first: str = "") -> re.Pattern[str]:
    """Return the pattern of `_ASCII` for all scripts: marks and joiners go on with a word."""
    word = rf"{letter}(?:{letter}|[{marks()}{JOINERS}])*"
    sign = rf"(?:[{FLAGS}]{{2}}|[^\w\s{JOINERS}])[{marks()}{SKIN_TONES}]*"
    return re.compile(rf"\d+(?:[.,]\d+)+|{first}{word}(?:(?:-|'(?!s\b)){word})*|'s\b|{sign}(?:\u200d{sign})*")


def _whitespace(text: str) -> list[str]:
    return text.split()


def _nltk(text: str) -> list[str]:
    # the originals lower-case bytes, so letters beyond ASCII keep their case
    return _nltk_tokenizer().tokenize(text.strip().encode().lower().decode())


@functools.cache
def _nltk_tokenizer():
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise UserError("INPUT.TOKENIZER=nltk needs the package nltk: pip install nltk") from error
    return NLTKWordTokenizer()


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "simple": _simple,
    "characters": _characters,
    "nltk": _nltk,
    "whitespace": _whitespace,
}
