"""Which columns of a table hold the picture, its captions and its split: as named, or as the header says."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from config.errors import UserError, cut

_PICTURE = re.compile(r"(image|img|picture|photo|file|pic)?[ _-]?(name|path|file|filename)?")
_CAPTION = re.compile(r"(caption|comment|sentence|description|text)s?")
_SPLIT = re.compile(r"split|subset|partition|set")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")  # tables that are not read, and refused
_DELIMITERS = "\t|;,"
_SHOWN, _LONGEST = 5, 24  # names in a message, and letters of one: a row may stand where the header should


@dataclass(frozen=True)
class Columns:
    """The names of columns or keys; what is empty is still to be guessed, or not there.

    `has_options` tells whether the user can name them on the command line.
    """

    picture: str = ""
    captions: tuple[str, ...] = ()
    split: str = ""
    has_options: bool = True

    def describe(self) -> str:
        """Return the columns and what they are taken for."""
        captions = (
            self.captions[0] if len(self.captions) == 1 else f"{self.captions[0]} to {self.captions[-1]}"
        )
        split = f", splits from {self.split}" if self.split else ""
        return f"pictures from {self.picture}, captions from {captions}{split}"


def choose_columns(where: str, header: Sequence[str], wanted: Columns) -> Columns:
    """Return the columns of `header` that `wanted` names, and by their names those that it does not.

    Captions may be in several columns that differ by a number, such as caption_1 to caption_5. Raises
    UserError that begins with `where` for a column that is not there, and where none or several fit.
    """
    there = {_plain(name): name for name in reversed(header)}
    captions = tuple(_named(where, there, name, "--caption_column") for name in wanted.captions)
    split = _named(where, there, wanted.split, "--split_column") if wanted.split else ""
    picture = _named(where, there, wanted.picture, "--image_column") if wanted.picture else ""
    rest = [name for name in dict.fromkeys(header) if name not in (*captions, split, picture)]
    if not captions:
        families = _families(rest)
        if len(families) != 1:
            raise _undecided(where, header, "captions", "caption", [*families], wanted)
        captions = tuple(next(iter(families.values())))
    rest = [name for name in rest if name not in captions]
    if not picture:
        fitting = [name for name in rest if _plain(name) and _PICTURE.fullmatch(_plain(name))]
        if len(fitting) != 1:
            raise _undecided(where, header, "the pictures' names", "image", fitting, wanted)
        picture = fitting[0]
    if not split:
        fitting = [name for name in rest if _SPLIT.fullmatch(_plain(name))]
        if len(fitting) > 1:
            raise _undecided(where, header, "the splits", "split", fitting, wanted)
        split = fitting[0] if fitting else ""
    return Columns(picture, captions, split)


def names_pictures(header: Iterable[str]) -> bool:
    """Tell whether a column's name is one of those that are taken for the pictures'."""
    return any(_plain(name) and _PICTURE.fullmatch(_plain(name)) for name in header)


def delimiter_of(line: str) -> str:
    """Return what stands between the columns of a line."""
    return max(_DELIMITERS, key=line.count)


def is_header(line: str) -> bool:
    """Tell whether the first line of a text names columns of pictures and captions."""
    names = line.replace('"', "").split(delimiter_of(line))
    return len(names) > 1 and names_pictures(names) and bool(_families(names))


def _families(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that may hold captions, those together that differ by a number alone."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem = re.sub(r"[ _-]*\d+$", "", _plain(name))
        if _CAPTION.fullmatch(stem):
            found.setdefault(stem.removesuffix("s"), []).append(name)
    return found


def _named(where: str, there: dict[str, str], name: str, option: str) -> str:
    if _plain(name) not in there:
        shown = _shown([*there.values()][::-1])
        raise UserError(f"{where}: {option}: no column {cut(name)!r} among its {len(there)}: {shown}")
    return there[_plain(name)]


def _undecided(
    where: str, header: Sequence[str], what: str, name: str, fitting: list[str], wanted: Columns
) -> UserError:
    found = f"several columns may hold {what} ({_shown(fitting)})" if fitting else f"no column holds {what}"
    first = "" if fitting else "; the first line of a table must name its columns, such as image,caption"
    remedy = f"name it with --{name}_column{first}" if wanted.has_options else f"expected one such as {name}"
    return UserError(f"{where}: {found} among its {len(header)}: {_shown(header)}: {remedy}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(cut(name, _LONGEST) for name in names[:_SHOWN])


def _plain(name: str) -> str:
    return name.strip().casefold()
