"""The pictures of a data set: with captions, or with classes from folders and lists."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from config.errors import UserError, cut, some
from datasets.captions.json_files import has_splits, is_karpathy, list_captions, load_json
from datasets.captions.listing import Listing, csv_rows, read_csv, read_karpathy
from datasets.names import composed
from datasets.pictures.files import ENDINGS, PictureFiles
from datasets.text_files import read_lines, refuse_duplicates

_SOP_COLUMNS = ("image_id", "class_id", "super_class_id", "path")
_IN_SHOP_COLUMNS = ("image_name", "item_id", "evaluation_status")
_YES = ("true", "1", "1.0", "yes")
_KARPATHY_SPLITS = ("train", "restval", "val", "test")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with one class each.

    `names` are names in a `PictureFiles`. `labels` (int64 [N]) are 0 to K-1 without gaps. `class_names` are
    the K classes as the source calls them: ascending if all are numbers, otherwise in alphabetical order.
    """

    names: list[str]
    labels: np.ndarray
    class_names: list[str]


@dataclass(frozen=True)
class ListedPicture:
    """A line of a list: its number, the picture's path and label as written, and the splits that it names."""

    line: int
    path: str
    label: str
    splits: frozenset[str] = frozenset()


def class_folders(files: PictureFiles) -> LabelledPictures:
    """Return all pictures, each with its folder as its class.

    The class of `cat/1.jpg` is `cat`, that of `Greek/alpha/1.png` is `Greek/alpha`. Raises `UserError` for
    pictures that lie in no folder.
    """
    folders = [PurePosixPath(name).parent.as_posix() for name in files.names]
    loose = [name for name, folder in zip(files.names, folders, strict=True) if folder == "."]
    if loose:
        raise UserError(
            f"{files.path}: {len(loose)} of {len(files)} pictures lie in no folder, such as {loose[0]}, "
            "expected a folder for each class: sort them into folders, or give a list of `path label` lines"
        )
    return _labelled(list(files.names), folders)


def read_label_list(path: str | Path, files: PictureFiles, split: str = "") -> LabelledPictures:
    """Read a list of pictures with their classes: lines `path label`, or a list of a known layout.

    The label is what follows a line's only tab, or else its last word, so that a path may hold spaces; in a
    file without any, it is what follows a comma, a semicolon or a bar after the picture's name. Layouts that
    are known by their first lines: Stanford Online Products (`image_id class_id super_class_id path`),
    In-Shop (a count, then `image_name item_id evaluation_status`), and a CSV whose header has `label` and
    `path`, and perhaps `split`, `is_query` and `is_gallery`, as Open Metric Learning has it. Of the two that
    name splits, those pictures are taken whose split is `split`; a true `is_query` is the split "query".

    Raises `UserError` that names a line without a label, or whose picture is missing or repeated, and for a
    list without a picture of `split`.
    """
    path = Path(path)
    listed = read_list(path)
    if split and any(each.splits for each in listed):
        known = sorted(set().union(*(each.splits for each in listed)))
        listed = [each for each in listed if split in each.splits]
        if not listed:
            raise UserError(
                f"{path}: no picture of the split {split!r}, it has {some(known)}: name these as "
                "DATASET.TRAIN, DEV and TEST, and EVAL.GALLERY"
            )
    names = files.find([each.path for each in listed], (f"{path} line {each.line}" for each in listed))
    _refuse_repeated(path, names, [each.line for each in listed])
    return _labelled(names, [each.label for each in listed])


def read_captioned(
    files: PictureFiles, path: str | Path, splits: Sequence[str] = ()
) -> tuple[Listing, list[str]]:
    """Read a caption file in CSV, Karpathy's JSON or plain JSON, and find its pictures.

    `splits` are the splits to take, () for all. Returns what the file lists, and the picture of each of its
    images. Raises `UserError` that names the row of a missing picture.
    """
    path = Path(path)
    if path.suffix == ".csv":
        listing = _read_csv_splits(path, splits)
    elif path.suffix == ".json":
        listing = _read_json(path, splits)
    else:
        raise UserError(f"{path}: expected a caption file that ends with .csv or .json")
    names = next(iter(listing.names.values()))
    return listing, files.find(names, (f"{path} {place}" for place in listing.places))


def read_list(path: str | Path) -> list[ListedPicture]:
    """Return the lines of a list as written; raise `UserError` that names a line without a label."""
    path = Path(path)
    lines = read_lines(path, "picture and label")
    if tuple(lines[0].split()) == _SOP_COLUMNS:
        listed = [_sop_row(path, number, line) for number, line in enumerate(lines[1:], 2)]
    elif lines[0].isdecimal() and len(lines) > 1 and tuple(lines[1].split()) == _IN_SHOP_COLUMNS:
        listed = [_in_shop_row(path, number, line) for number, line in enumerate(lines[2:], 3)]
        if int(lines[0][:18]) != len(listed):
            raise UserError(f"{path}: its first line says {cut(lines[0])} pictures, and {len(listed)} follow")
    elif {"label", "path"} <= {cell.strip() for cell in lines[0].split(",")}:
        listed = list(_csv_list(path))
    else:
        mark = _separator(lines)
        listed = [_plain_row(path, number, line, mark) for number, line in enumerate(lines, 1)]
    if not listed:
        raise UserError(f"{path}: a header and no pictures, expected a line for each")
    return listed


def _csv_list(path: Path) -> Iterator[ListedPicture]:
    (_, header), *rows = csv_rows(path)
    names = [name.strip() for name in header]
    for number, row in rows:
        if len(row) != len(names):
            raise UserError(f"{path} line {number}: {len(row)} columns, expected {len(names)}")
        cells = dict(zip(names, map(str.strip, row), strict=True))
        if not cells["path"] or not cells["label"]:
            raise UserError(f"{path} line {number}: expected a path and a label, got {cut(','.join(row))!r}")
        splits = {cells["split"]} if cells.get("split") else set()
        splits |= {name for name in ("query", "gallery") if cells.get(f"is_{name}", "").lower() in _YES}
        yield ListedPicture(number, cells["path"], cells["label"], frozenset(splits))


def _in_shop_row(path: Path, number: int, line: str) -> ListedPicture:
    values = line.split()
    if len(values) != len(_IN_SHOP_COLUMNS):
        raise UserError(f"{path} line {number}: expected {' '.join(_IN_SHOP_COLUMNS)}, got {cut(line)!r}")
    return ListedPicture(number, values[0], values[1], frozenset(values[2:]))


def _separator(lines: list[str]) -> str | None:
    """Return the mark between path and label if all lines have it once, after a picture's name; else None."""
    for mark in ",;|":
        parts = [line.split(mark) for line in lines]
        if all(len(part) == 2 and part[0].strip().lower().endswith(ENDINGS) for part in parts):
            return mark
    return None


def _plain_row(path: Path, number: int, line: str, mark: str | None = None) -> ListedPicture:
    name, *label = line.split("\t") if line.count("\t") == 1 else line.rsplit(mark, 1)
    if not label or not name.strip() or not label[0].strip():
        raise UserError(f"{path} line {number}: expected a picture's path and its label, got {cut(line)!r}")
    return ListedPicture(number, name.strip(), label[0].strip())


def _sop_row(path: Path, number: int, line: str) -> ListedPicture:
    values = line.split(None, 3)
    if len(values) != len(_SOP_COLUMNS):
        raise UserError(f"{path} line {number}: expected {' '.join(_SOP_COLUMNS)}, got {cut(line)!r}")
    return ListedPicture(number, values[3], values[1])


def _refuse_repeated(path: Path, names: list[str], lines: list[int]) -> None:
    line_of: dict[str, int] = {}
    for number, name in zip(lines, names, strict=True):
        if line_of.setdefault(name, number) != number:
            raise UserError(
                f"{path} line {number}: {cut(name)} again, also on line {line_of[name]}: give each one label"
            )


def _labelled(names: list[str], classes: list[str]) -> LabelledPictures:
    classes = [composed(name) for name in classes]  # a name from a Mac is that of others
    different = set(classes)
    numbers = all(name.isascii() and name.isdigit() for name in different)
    class_names = sorted(different, key=int if numbers else None)
    label_of = {name: label for label, name in enumerate(class_names)}
    return LabelledPictures(
        names, np.array([label_of[name] for name in classes], dtype=np.int64), class_names
    )


def _read_csv_splits(path: Path, splits: Sequence[str]) -> Listing:
    (_, header), *rows = [*csv_rows(path)] or [(1, [])]
    names = [name.strip().lower() for name in header]
    if "split" not in names:
        if splits:
            raise _without_splits(path)
        return read_csv(path, "", file_per_split=True)
    at = names.index("split")
    found = dict.fromkeys(row[at].strip() for _, row in rows if len(row) == len(header))
    # Without any, the reader of the first says what is wrong.
    return _joined(path, [read_csv(path, split, file_per_split=False) for split in splits or found or [""]])


def _joined(path: Path, listings: list[Listing]) -> Listing:
    """Return one listing of several splits; raise `UserError` if an image is in two of them."""
    whole = Listing({name: [] for name in listings[0].names})
    for listing in listings:
        images = len(next(iter(whole.names.values())))
        for name, column in whole.names.items():
            column += listing.names[name]
        whole.captions += listing.captions
        whole.places += listing.places
        whole.caption_image += [images + image for image in listing.caption_image]
    refuse_duplicates(path, next(iter(whole.names.values())), "image {}")
    return whole


def _read_json(path: Path, splits: Sequence[str]) -> Listing:
    content = load_json(path)
    if is_karpathy(content):
        return read_karpathy(path, splits or _KARPATHY_SPLITS)
    if splits and not has_splits(content):
        raise _without_splits(path)
    return list_captions(path, content, splits)


def _without_splits(path: Path) -> UserError:
    return UserError(f"{path}: it names no splits to choose from: take all its pictures, or add their splits")
