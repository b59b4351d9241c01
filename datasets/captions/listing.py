"""Readers of caption files in Karpathy's split JSON and in CSV.

A reader returns a `Listing`: the images that a file names, and their captions. Readers know nothing of
feature files.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from config.errors import UserError, cut, some
from datasets.names import composed
from datasets.text_files import parse_json, read_text, refuse_duplicates, shown_json


@dataclass
class Listing:
    """The images of a caption file, in its order, and their captions.

    `names` maps each kind of name, such as `filename`, to the names [images]; the first kind is the images'
    ids. `captions` are stripped texts. `caption_image` [captions] is the index of each caption's image.
    `places` [images] tell where the file first names each image, such as `line 3`. `caption_ids` [captions]
    are the captions' own names, if the file has them.
    """

    names: dict[str, list[str]]
    captions: list[str] = field(default_factory=list)
    caption_image: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    caption_ids: list[str] = field(default_factory=list)


class _Elsewhere(NamedTuple):
    """An image of another split."""

    split: object
    filename: object


def read_karpathy(path: Path, splits: Sequence[str]) -> Listing:
    """Read the images whose split is one of `splits`; their names are filename, cocoid and imgid.

    Raises `UserError` that names an entry without a filename, without sentences, or with an empty sentence.
    """

    def reduce(entry: dict) -> object:
        # The parser calls this for each object. What is not needed is freed at once, so that COCO's
        # 144 MB of JSON take no more than a few hundred MB. What is wrong is refused below, with its place.
        if "sentences" in entry:
            if entry.get("split") in splits:
                return (*map(entry.get, ("filename", "cocoid", "imgid", "sentids", "sentences")),)
            return _Elsewhere(entry.get("split"), entry.get("filename"))
        if "raw" in entry:
            return entry["raw"]
        tokens = entry.get("tokens")
        words = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
        return " ".join(tokens) if words else entry

    content = parse_json(path, read_text(path), object_hook=reduce)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or all(isinstance(image, dict) for image in images):
        raise UserError(
            f"{path}: expected an object with the list 'images', each with its sentences, as in Karpathy's "
            "split files; DATASET.FORMAT=json reads other JSON"
        )

    listing = Listing({"filename": [], "cocoid": [], "imgid": []})
    for index, image in enumerate(images):
        if not isinstance(image, tuple) or isinstance(image, _Elsewhere):
            continue
        *names, sentence_ids, sentences = image
        where = f"{path}: images[{index}] ({cut(names[0])!r})"
        if (
            not isinstance(names[0], str)
            or not names[0].strip()
            or not isinstance(sentences, list)
            or not sentences
        ):
            raise UserError(f"{where}: expected a filename and sentences")
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise UserError(
                    f"{where}.sentences[{number}]: expected 'raw', a text, or 'tokens', a list of words, got "
                    f"{shown_json(sentence)}"
                )
            if not sentence.strip():
                raise UserError(f"{where}.sentences[{number}]: empty caption: fill it in or remove it")
            listing.captions.append(sentence.strip())
            listing.caption_image.append(len(listing.names["filename"]))
        for column, name in zip(listing.names.values(), names, strict=True):
            column.append(composed(str(name)))
        if isinstance(sentence_ids, list) and len(sentence_ids) == len(sentences):
            listing.caption_ids += map(str, sentence_ids)
        listing.places.append(f"images[{index}]")
    elsewhere = [image for image in images if isinstance(image, _Elsewhere)]
    if not listing.captions:
        raise no_such_split(path, splits[0], {str(image.split) for image in elsewhere})
    names = set(listing.names["filename"])
    for image in elsewhere:
        if isinstance(image.filename, str) and composed(image.filename) in names:
            raise UserError(
                f"{path}: {cut(image.filename)!r} is of the split {splits[0]!r}, and of "
                f"{cut(image.split)!r}: keep each image in one split"
            )
    refuse_duplicates(path, listing.names["filename"], f"image {{}} of {splits[0]}")
    if len(listing.caption_ids) != len(listing.captions):  # some images lack them
        listing.caption_ids = []
    return listing


def read_csv(path: Path, split: str, file_per_split: bool) -> Listing:
    """Read the images of a split, and their captions, from the columns image, caption and split.

    A column caption_id names the captions, for a file of DATASET.RELEVANCE.

    A file without the column split must belong to the split alone, as `file_per_split` tells. Raises
    `UserError` that names the line.
    """
    rows = csv_rows(path)
    _, header = next(rows, (1, []))
    if header and header[0].lstrip().startswith(("{", "[")):
        raise UserError(
            f"{path}: JSON, expected CSV with the columns image and caption: set DATASET.FORMAT=json"
        )
    header = [name.strip().lower() for name in header]
    image_at, caption_at = _column(path, header, "image"), _column(path, header, "caption")
    split_at = header.index("split") if "split" in header else None
    id_at = header.index("caption_id") if "caption_id" in header else None
    if split_at is None and not file_per_split:
        raise UserError(
            f"{path} line 1: no column 'split' among {some(header)}: add it, or give each split "
            "a file of its own and name them all, such as DATASET.CAPTION_FILE={split}.csv"
        )
    images, others, listing = {}, set(), Listing({})
    split_of: dict[str, str] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path} line {line}: {len(row)} columns, expected {len(header)} ({some(header)}): "
                "put a caption that holds a comma in double quotes"
            )
        image, caption = composed(row[image_at].strip()), row[caption_at].strip()
        own = split if split_at is None else row[split_at].strip()
        if image and split_of.setdefault(image, own) != own:
            raise UserError(
                f"{path} line {line}: {cut(image)!r} is of the split {cut(own)!r}, and of "
                f"{cut(split_of[image])!r} before: keep each image in one split"
            )
        if own != split:
            others.add(own)
        elif not image or not caption:
            raise UserError(
                f"{path} line {line}: empty {'caption' if image else 'image'}: fill it in or delete the line"
            )
        else:
            if image not in images:
                images[image] = len(images)
                listing.places.append(f"line {line}")
            listing.captions.append(caption)
            listing.caption_image.append(images[image])
            if id_at is not None:
                listing.caption_ids.append(row[id_at].strip())
    if not images:
        raise no_such_split(path, split, others)
    listing.names["image"] = list(images)
    return listing


def no_such_split(path: Path, split: str, others: set[str]) -> UserError:
    """Return the error for a file that has captions of the splits `others`, but none of `split`."""
    return UserError(
        f"{path}: no captions of the split {split!r}, it holds {some(sorted(map(str, others))) or 'none'}: "
        "name its splits (DATASET.TRAIN, DEV and TEST, or --split)"
    )


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the number of its last line."""
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: an empty file, expected image,caption or image,caption,split in line 1")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV: {error}") from error


def _column(path: Path, header: list[str], name: str) -> int:
    if name in header:
        return header.index(name)
    close = get_close_matches(name, header, n=1, cutoff=0.5)
    hint = (
        f"did you mean {cut(close[0])!r}?"
        if close
        else "the first line must be image,caption or image,caption,split"
    )
    raise UserError(f"{path} line 1: no column {name!r} among {some(header)}: {hint}")
