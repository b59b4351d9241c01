"""Names of pictures in different files: one picture may be written in several ways."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_COCO = re.compile(r"(?:COCO_[A-Za-z]+\d{4}_)?0*(\d{1,18})")
_AMBIGUOUS = -1


def composed(text: str) -> str:
    """Return `text` in Unicode's form NFC, in which a letter and its accent are one character if possible.

    macOS writes names of files in the form NFD, nearly everything else writes NFC.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def same_name(name: str, known: Iterable[str]) -> list[str]:
    """Return `name` if it is among `known`, otherwise the names there that equal it in the form NFC."""
    known = known if isinstance(known, set | dict) else set(known)
    if name in known:
        return [name]
    wanted = composed(name)
    return [other for other in known if composed(other) == wanted]


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(composed(name).replace("\\", "/"))


def _without_ending(name: str) -> str:
    return _ENDING.sub("", composed(name).replace("\\", "/"))


def _stem(name: str) -> str:
    return _ENDING.sub("", _path(name).name)


def _number(name: str) -> str:
    """Return the number in a name of COCO's, such as COCO_val2014_000000000042.jpg or 000000000042."""
    match = _COCO.fullmatch(_stem(name))
    return match[1] if match else ""


# From the same name on to what is alike in part; each form is that of both sides.
_FORMS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    composed,
    _without_ending,
    lambda name: _path(name).name,
    _stem,
    lambda name: _stem(name).casefold(),
    _number,
)


class AmbiguousNameError(Exception):
    """Names fit in more than one way; the message says which."""


class UnknownNamesError(Exception):
    """Images have no row: the names `missing`, of the kind that fits best, and the `place` of the first."""

    def __init__(self, missing: list[str], place: int) -> None:
        super().__init__(f"{len(missing)} names are unknown")
        self.missing, self.place = missing, place


def match_names(kinds: Sequence[Sequence[str]], rows: Mapping[str, int]) -> list[int]:
    """Return the row of each image by its name in `rows`.

    `kinds` are lists of names [images], one for each kind of name. Names are compared as they are, then in
    the form NFC, without endings, without folders, without both, without regard to case, and by their number
    if they are COCO's; the first form is taken in which all names of a kind are found, each by itself. Raises
    `AmbiguousNameError` if two rows, or two kinds of names, fit equally well, and `UnknownNamesError`.
    """
    ambiguous: AmbiguousNameError | None = None
    fewest: UnknownNamesError | None = None
    for form in _FORMS:
        table = _table(form, rows)
        found: list[list[int]] = []
        for names in kinds:
            keys = [form(name) for name in names]
            missing = [place for place, key in enumerate(keys) if key not in table]
            if len(set(keys)) < len(keys):
                continue
            if missing:
                if fewest is None or len(missing) < len(fewest.missing):
                    fewest = UnknownNamesError([names[place] for place in missing], missing[0])
                continue
            fits = [table[key] for key in keys]
            if _AMBIGUOUS in fits:
                name = names[fits.index(_AMBIGUOUS)]
                ambiguous = ambiguous or AmbiguousNameError(f"several fit {name!r}")
            else:
                found.append(fits)
        if any(fits != found[0] for fits in found[1:]):
            raise AmbiguousNameError("they fit two kinds of names of the images, in different ways")
        if found:
            return found[0]
    raise ambiguous or fewest or UnknownNamesError(list(kinds[0][:1]), 0)


def _table(form: Callable[[str], str], rows: Mapping[str, int]) -> dict[str, int]:
    """Return the rows by the form of their names; those that share a form are ambiguous."""
    table: dict[str, int] = {}
    for name, row in rows.items():
        key = form(name)
        if table.setdefault(key, row) != row:
            table[key] = _AMBIGUOUS
    table.pop("", None)
    return table
