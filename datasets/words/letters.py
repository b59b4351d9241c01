"""Letters of all scripts: one form for each, its marks, and the scripts that write no spaces."""

import functools
import re
import unicodedata
from collections.abc import Iterable
from itertools import chain
from statistics import median

from datasets.names import composed

JOINERS = "\u200c\u200d"  # inside words of Persian and of Indian scripts, and inside emoji
INNER = "\u00b7\u05f3\u05f4\u2027"  # inside words of Catalan and of Hebrew, by Unicode's rules for words
SKIN_TONES = "\U0001f3fb-\U0001f3ff"
FLAGS = "\U0001f1e6-\U0001f1ff"  # two of these letters are the flag of a country
_HALF_WIDTH_MARKS = "\uff9e\uff9f"  # voiced sounds of half-width Japanese, letters to Unicode
# Of what the eye does not see, soft hyphens and marks of direction fall out; a space of no width is a space.
_INVISIBLE = {
    **dict.fromkeys([0xAD, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF]),
    0x200B: " ",
}
_CHINESE_JAPANESE = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_THAI_LAO_BURMESE_KHMER = (
    "\u0e00-\u0e4f\u0e80-\u0ecf\u0edc-\u0eff\u1000-\u103f\u1050-\u108f\u109a-\u109f\u1780-\u17d3\u17d7\u17dc"
    "\u17dd\u1950-\u19df\u1a20-\u1a7f\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaadf"
)
UNSPACED = _CHINESE_JAPANESE + _THAI_LAO_BURMESE_KHMER  # for the brackets of a regular expression
# The letters in a row above which words cannot have been separated: words of Chinese have one to two letters,
# those of Thai some four.
_LONGEST_WORD = {_CHINESE_JAPANESE: 2.5, _THAI_LAO_BURMESE_KHMER: 6}
_ASKING = 0.1  # share of the captions


def visible(text: str) -> str:
    """Return `text` without the characters that only steer how it is shown."""
    return text if text.isascii() else text.translate(_INVISIBLE)


@functools.cache
def marks() -> str:
    """Return the ranges of all combining marks, for the brackets of a regular expression."""
    ranges: list[list[int]] = []
    for code in chain(range(0x300, 0x1F000), range(0xE0100, 0xE01F0)):  # there are none elsewhere
        if unicodedata.category(chr(code))[0] != "M":
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + _HALF_WIDTH_MARKS


@functools.cache
def unspaced_letter() -> re.Pattern[str]:
    """Return the pattern of one letter of a script without spaces, with its marks."""
    return re.compile(f"[{UNSPACED}][{marks()}{JOINERS}]*")


def runs_words_together(captions: Iterable[str]) -> bool:
    """Tell whether captions write words of Chinese, Japanese, Thai, Lao, Burmese or Khmer without spaces.

    A tenth of the captions must hold such letters, and most of these must have more of them in a row than a
    word has; words that were separated by spaces stay words.
    """
    total = written = together = 0
    patterns = {
        re.compile(f"[{letters}](?:[{letters}]|[{marks()}{JOINERS}])*"): limit
        for letters, limit in _LONGEST_WORD.items()
    }
    for caption in captions:
        total += 1
        if caption.isascii():
            continue
        text = visible(composed(caption))
        lengths = [
            (len(unspaced_letter().findall(run)), limit)
            for pattern, limit in patterns.items()
            for run in pattern.findall(text)
        ]
        if lengths:
            written += 1
            together += median(length / limit for length, limit in lengths) > 1
    return written >= max(1, _ASKING * total) and 2 * together > written
