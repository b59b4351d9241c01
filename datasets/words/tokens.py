"""Tokenizers: from a caption to its tokens."""

import functools
import importlib.util
import re
from collections.abc import Callable

from config.errors import UserError
from datasets.names import composed
from datasets.words.letters import (
    FLAGS,
    INNER,
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
    """Return the pattern of `_ASCII` for all scripts: marks and joiners go on with a word.

    So do the dot of Catalan (col·legi) and the marks of Hebrew abbreviations (צה״ל) between letters.
    """
    word = rf"{letter}(?:{letter}|[{marks()}{JOINERS}])*"
    sign = rf"(?:[{FLAGS}]{{2}}|[^\w\s{JOINERS}])[{marks()}{SKIN_TONES}]*"
    return re.compile(
        rf"\d+(?:[.,]\d+)+|{first}{word}(?:(?:[-{INNER}]|'(?!s\b)){word})*|'s\b|{sign}(?:\u200d{sign})*"
    )


def _whitespace(text: str) -> list[str]:
    return text.split()


# Captions of these characters alone are split by some of NLTK's rules, which `_plain_nltk` takes together.
_PLAIN = re.compile(r"[a-z0-9_ ,:.'?!;@#$%&()\[\]{}<>*-]*")
_STANDS_ALONE = re.compile(r"[?!;@#$%&()\[\]{}<>*]|[,:](?!\d)")
_AFTER_LAST_STOP = " ])}>'"  # with nothing else behind it, a full stop is the last one
_APOSTROPHE = re.compile(
    r"(?<=\w)(?:'(?:s|m|d|ll|re|ve)|n't)(?= )"  # the dog 's
    r"|(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)"  # ' quoted
    r"|(?<=\w)'(?= )"  # quoted '
)
# NLTK takes these words apart, within others too where a hyphen or comma stands between.
_TAKEN_APART = ("cannot", "gimme", "gonna", "gotta", "lemme", "wanna")


def _nltk(text: str) -> list[str]:
    # the originals lower-case bytes, so letters beyond ASCII keep their case
    text = text.strip().encode().lower().decode()
    check_nltk()
    plain = _plain_nltk(text) if _PLAIN.fullmatch(text) else None
    return _nltk_tokenizer().tokenize(text) if plain is None else plain


def _plain_nltk(text: str) -> list[str] | None:
    """Return NLTK's tokens of a stripped caption that is `_PLAIN`; None if other rules may come into play.

    NLTK's tokenizer passes over a caption with some thirty patterns, most of which find nothing. It is also
    slow to import, as it brings SciPy and scikit-learn.
    """
    for word in _TAKEN_APART:
        if word in text:
            return None
    if "--" in text:
        return None
    if "." in text:
        if ".." in text:
            return None
        if text[-1] == ".":
            text = text[:-1] + " ."
        elif not text[text.rindex(".") + 1 :].strip(_AFTER_LAST_STOP):
            return None
    if not text.replace(" ", "").isalnum():
        if ",," in text or "::" in text or ",:" in text or ":," in text:
            return None
        text = _STANDS_ALONE.sub(r" \g<0> ", text)
        if "'" in text:
            parted, found = _APOSTROPHE.subn(r" \g<0> ", text + " ")
            if found != text.count("'"):
                return None
            text = parted
    return text.split()


@functools.cache
def check_nltk() -> None:
    """Raise `UserError` if nltk is missing; it is not imported, which takes longer than most captions do."""
    if importlib.util.find_spec("nltk") is None:
        raise UserError("INPUT.TOKENIZER=nltk needs the package nltk: pip install nltk")


@functools.cache
def _nltk_tokenizer():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "simple": _simple,
    "characters": _characters,
    "nltk": _nltk,
    "whitespace": _whitespace,
}
