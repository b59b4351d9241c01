"""The colours and the fonts of all drawings: letters of any script are drawn, or stand as question marks."""

import functools
import importlib.util
import unicodedata
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

BACKGROUND, INK, FAINT, LINE, RIGHT = "#ffffff", "#1c2430", "#68707c", "#d5dae0", "#2c9c5a"
REGULAR = 400  # weight of the variable fonts
_CJK = {
    *("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "KANGXI", "IDEOGRAPHIC"),
    *("FULLWIDTH", "HALFWIDTH", "YI"),
}
_LONGEST = 4  # characters a pixel: more never fit

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@functools.cache
def font(size: int) -> Font:
    """Return the font of labels without letters beyond ASCII, at a `size` in pixels."""
    return ImageFont.load_default(size)


def write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, fill: object, anchor: str = "la"
) -> None:
    """Write `text` at a font `size` in pixels; `place` and `anchor` are those of Pillow."""
    if text.isascii():
        draw.text(place, text, fill=fill, font=font(size), anchor=anchor)
        return
    x, y = place
    width = length(text, size)
    x -= {"l": 0, "m": width / 2, "r": width}[anchor[0]]
    ascent, descent = font(size).getmetrics()
    y += {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]  # to the common base line
    for own, part in _runs(text, size):
        draw.text((x, y), part, fill=fill, font=own, anchor="ls")
        x += own.getlength(part)


def length(text: str, size: int) -> float:
    """Return the width of `text` at a font `size`, in pixels."""
    if text.isascii():
        return font(size).getlength(text)
    return sum(own.getlength(part) for own, part in _runs(text, size))


def fitted(text: str, width: int, size: int) -> str:
    """Return `text` at a font `size`, shortened with "..." if it is wider than `width` pixels."""
    text = " ".join(text.split())
    if len(text) <= _LONGEST * width and length(text, size) <= width:
        return text
    fits, beyond = 0, min(len(text), _LONGEST * width) + 1  # characters; a search by halves
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if length(text[:middle] + "...", size) <= width:
            fits = middle
        else:
            beyond = middle
    return text[:fits] + "..."


def _runs(text: str, size: int) -> list[tuple[Font, str]]:
    """Cut a text into parts of one font each."""
    scripts: list[str] = []
    for char in text:
        stays = scripts and (char.isspace() or unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf"))
        scripts.append(scripts[-1] if stays else _script(char))
    runs = []
    for script, members in groupby(zip(scripts, text, strict=True), key=lambda pair: pair[0]):
        part = "".join(char for _, char in members)
        own = _font_of(script, size)
        runs.append((own, part) if own else (font(size), _in_ascii(part)))
    return runs


def _script(char: str) -> str:
    """Return the script of a character as the file of its Noto font names it; empty for most scripts."""
    first = unicodedata.name(char, "").partition(" ")[0]
    if first in _CJK:
        return "CJK"
    if unicodedata.category(char) == "So":
        return "Emoji" if ord(char) >= 0x1F000 else "Symbols"
    return first.title() if first.title() in _files() else ""


def _font_of(script: str, size: int) -> Font | None:
    path = _files().get(script)
    return _load(path, size) if path else None


@functools.cache
def _load(path: Path, size: int) -> Font:
    loaded = ImageFont.truetype(path, size)
    loaded.set_variation_by_axes([REGULAR])
    return loaded


@functools.cache
def _files() -> dict[str, Path]:
    """Return the files of the Noto fonts by script, without those whose package is not installed."""
    found = {}
    for package in ("manimgx_fonts", "manimgx_fonts_cjk"):
        spec = importlib.util.find_spec(package)
        for path in Path(spec.origin).parent.glob("Noto*.tt[fc]") if spec else ():
            script = path.name.partition("[")[0].partition("-")[0].removeprefix("Noto").removeprefix("Sans")
            if "Italic" not in path.name:
                found[script] = path
    return found


def _in_ascii(text: str) -> str:
    """Return letters without their accents, and question marks for letters of other scripts."""
    plain = (unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() for char in text)
    shown = (
        bare or ("" if unicodedata.category(char)[0] in "MC" else "?")
        for bare, char in zip(plain, text, strict=True)
    )
    return "".join(shown)
