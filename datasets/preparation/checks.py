"""Tie the rows of a caption table to photos, and find everything that is wrong with both."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from datasets.names import composed
from datasets.pictures.files import PictureFiles
from datasets.preparation.photos import Seen
from datasets.preparation.problems import (
    AMBIGUOUS,
    EMPTY,
    LETTERLESS,
    MISSING,
    REPEATED,
    SAME_NAME,
    TWICE,
    TWO_SPLITS,
    UNCAPTIONED,
    UNKNOWN_SPLIT,
    UNREADABLE,
    UNUSABLE_NAME,
    UNUSUAL,
    Problems,
)
from datasets.preparation.tables import Row

SPLITS = ("train", "dev", "test")
_SPLIT_NAMES = {
    "train": ("train", "training", "restval"),
    "dev": ("dev", "val", "valid", "validation", "development"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
_PHOTO_ENDINGS = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
    *(".raf", ".raw", ".psd", ".svg"),
)


@dataclass(frozen=True)
class Captioned:
    """The usable `captions` by picture, in the order of the table, and each picture's `split` or ""."""

    captions: dict[str, list[str]]
    split: dict[str, str]


def check_photos(files: PictureFiles, seen: dict[str, Seen], problems: Problems) -> list[str]:
    """Return the names of the photos that can be used."""
    for name in _unusual(files):
        problems.add(UNUSUAL, name)
    names_alike: dict[str, str] = {}
    usable = []
    for name in files.names:
        first = names_alike.setdefault(_folded(name), name)
        if seen[name].problem:
            problems.add(UNREADABLE, f"{name}: {seen[name].problem}")
        elif name != name.strip() or not name.isprintable():
            problems.add(UNUSABLE_NAME, repr(name))
        elif first != name:
            problems.add(SAME_NAME, f"{name} and {first}")
        else:
            usable.append(name)
    return usable


def check_captions(
    rows: Sequence[Row], files: PictureFiles, usable: Sequence[str], problems: Problems
) -> Captioned:
    """Return the usable captions of the photos `usable`; all others are added to `problems`.

    Those of photos in formats that are not read are left out: `check_photos` has added the photos.
    """
    unusual = {_folded(key) for name in _unusual(files) for key in (name, PurePosixPath(name).name)}
    found = {name: [name] for name in files.names}
    folded = _by_folded_name(files)
    kept = set(usable)
    captions: dict[str, list[str]] = {}
    split: dict[str, str] = {}
    with_splits = any(row.split for row in rows)
    for row in rows:
        if row.picture not in found:
            given = row.picture.replace("\\", "/")
            found[row.picture] = files.fitting(row.picture) or folded.get(_folded(given), [])
        if not found[row.picture] and _folded(row.picture.replace("\\", "/")) in unusual:
            continue
        picture = _picture_of(row, found[row.picture], problems)
        own_split = _split_of(row, with_splits, problems)
        caption = " ".join(composed(row.caption).split())
        if not caption:
            problems.add(EMPTY, f"{row.place}: {row.picture}")
        elif not any(letter.isalpha() for letter in caption):
            problems.add(LETTERLESS, f"{row.place}: {row.picture}: {caption[:60]}")
        elif picture in kept and own_split is not None:
            if split.setdefault(picture, own_split) != own_split:
                problems.add(
                    TWO_SPLITS, f"{row.place}: {row.picture}: {own_split}, and {split[picture]} before"
                )
            else:
                if caption in captions.setdefault(picture, []):
                    problems.add(TWICE, f"{row.place}: {picture}: {caption[:60]}")
                captions[picture].append(caption)
    for name in usable:
        if name not in captions:
            problems.add(UNCAPTIONED, name)
    return Captioned(captions, split)


def check_repeated(captions: dict[str, list[str]], split: dict[str, str], problems: Problems) -> None:
    """Add the sentences of dev and test that training has too, case and blanks aside."""
    sentences = {
        name: Counter(
            caption.casefold()
            for picture, own in captions.items()
            if split[picture] == name
            for caption in own
        )
        for name in SPLITS
    }
    for name in SPLITS[1:]:
        for sentence in sentences[name].keys() & sentences["train"].keys():
            problems.add(REPEATED, f"{name}: {sentence[:80]}")


def _unusual(files: PictureFiles) -> list[str]:
    """Return the photos in formats that are not read."""
    return [name for name in files.others if name.lower().endswith(_PHOTO_ENDINGS)]


def _by_folded_name(files: PictureFiles) -> dict[str, list[str]]:
    """Return the pictures by path and by file name, case aside: cameras and spreadsheets differ in .JPG."""
    found: dict[str, list[str]] = {}
    for name in files.names:
        for key in {name, PurePosixPath(name).name}:
            found.setdefault(_folded(key), []).append(name)
    return found


def _folded(name: str) -> str:
    return composed(name).casefold()


def _picture_of(row: Row, fits: list[str], problems: Problems) -> str | None:
    """Return the picture that a row names, of those that fit."""
    if len(fits) == 1:
        return fits[0]
    if fits:
        problems.add(AMBIGUOUS, f"{row.place}: {row.picture}: {fits[0]} and {fits[1]}")
    else:
        problems.add(MISSING, f"{row.place}: {row.picture}")
    return None


def _split_of(row: Row, with_splits: bool, problems: Problems) -> str | None:
    """Return our name of a row's split, "" if the table has none, None if it is unknown."""
    if not with_splits:
        return ""
    split = _SPLIT_OF.get(row.split.casefold())
    if split is None:
        problems.add(UNKNOWN_SPLIT, f"{row.place}: {row.picture}: {row.split or 'empty'}")
    return split
