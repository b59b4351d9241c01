"""Read which captions are right for which images, from JSON (image id -> caption ids) or CSV (pairs)."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from config.errors import UserError, cut, some
from datasets.captions.load import CaptionSplit
from datasets.names import composed
from datasets.relevance import Relevance
from datasets.text_files import parse_json, read_text, shown_json

Pair = tuple[str, str, str, float]  # where the pair stands, image id, caption id, grade


def by_sentence(split: CaptionSplit, image_fold: np.ndarray | None = None) -> CaptionSplit:
    """Return `split` with equal captions as one, which is right for every image that has it.

    With `image_fold` [images], equal captions are one within a fold alone. Without it captions stay apart,
    as training needs them, and each is right for all images of its sentence.
    """
    number: dict[str, int] = {}
    sentence = np.array([number.setdefault(text, len(number)) for text in split.captions], np.int64)
    owners = split.caption_image
    if image_fold is None:
        first, place = np.arange(len(sentence)), None
        same = Relevance.of_groups(sentence, sentence)
        images, captions = owners[same.images], same.captions
    else:
        keys = sentence * (int(image_fold.max(initial=0)) + 1) + image_fold[owners]
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first)
        first, place = first[order], np.argsort(order)[place.reshape(-1)]
        images, captions = owners, place
    relevance = Relevance.of((len(split.image_ids), len(first)), images, captions, rule="sentence")
    return replace(
        split,
        captions=[split.captions[caption] for caption in first],
        caption_image=owners[first],
        caption_ids=[split.caption_ids[caption] for caption in first] if split.caption_ids else None,
        relevance=relevance,
    )


def read_relevance(path: Path, split: CaptionSplit, least: float = 0.0) -> Relevance:
    """Return the right pairs that the file at `path` lists for `split`, whose captions have ids or places.

    A pair of the CSV is right if its grade is at least `least` and above 0. The ids of captions are those of
    `split.caption_ids`, or without them their 0-based places in the split. Raises UserError that names an
    unknown id, a grade that is no number, and a file that is neither.
    """
    read = _read_pairs if path.suffix.lower() == ".csv" else _read_map
    image_of = {name: row for row, name in enumerate(split.image_ids)}
    composed_of = {composed(name): row for name, row in image_of.items()}
    if len(composed_of) == len(image_of):  # a name in another form of Unicode, as macOS writes it
        image_of |= {name: row for name, row in composed_of.items() if name not in image_of}
    ids = split.caption_ids or [str(place) for place in range(len(split.captions))]
    caption_of = {name: row for row, name in enumerate(ids)}
    found: list[tuple[int, int, float]] = []
    graded = False
    for where, image, caption, grade in read(path):
        image = image if image in image_of else composed(image)
        for what, name, known in (("image", image, image_of), ("caption", caption, caption_of)):
            if name not in known:
                raise UserError(
                    f"{path} {where}: the {what} {cut(name)!r} is not in {split.name}, whose {what} ids are "
                    f"{some(known)}: write a file for this split alone, such as "
                    f"DATASET.RELEVANCE={{split}}{path.suffix}"
                )
        if grade > 0 and grade >= least:
            found.append((image_of[image], caption_of[caption], grade))
            graded |= grade != 1
    if not found:
        raise UserError(f"{path}: no pair of {split.name} is right, expected at least one: check the file")
    images, captions, grades = zip(*found, strict=True)
    rule = f"file {path.name}" + (f", grade {least:g} or more" if least > 0 else "")
    shape = len(split.image_ids), len(split.captions)
    return Relevance.of(shape, images, captions, grades if graded else None, rule)


def _read_map(path: Path) -> Iterator[Pair]:
    content = parse_json(path, read_text(path))
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected an object, image id -> list of caption ids, got {shown_json(content)}"
        )
    for image, captions in content.items():
        if not isinstance(captions, list) or not all(_is_id(caption) for caption in captions):
            raise UserError(
                f"{path} image {cut(image)!r}: expected a list of caption ids, got {shown_json(captions)}"
            )
        for caption in captions:
            yield f"image {cut(image)!r}", image, str(caption), 1.0


def _read_pairs(path: Path) -> Iterator[Pair]:
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: an empty file, expected the columns image, caption in line 1")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: Sequence[str] = ()
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if not header:
                header = [name.strip().lower() for name in row]
                if not {"image", "caption"} <= set(header):
                    raise UserError(
                        f"{path} line 1: expected the columns image, caption and, if pairs have grades, "
                        f"grade, got {some(header)}"
                    )
            elif row:
                if len(row) != len(header):
                    raise UserError(f"{path} {where}: {len(row)} columns, expected {len(header)}")
                values = dict(zip(header, map(str.strip, row), strict=True))
                yield where, values["image"], values["caption"], _grade(path, where, values.get("grade", "1"))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV: {error}") from error


def _grade(path: Path, where: str, text: str) -> float:
    try:
        grade = float(text)
    except ValueError:
        grade = float("nan")
    if not np.isfinite(grade) or grade < 0:
        raise UserError(f"{path} {where}: expected a grade of 0 or more, got {cut(text)!r}")
    return grade


def _is_id(value: object) -> bool:
    return isinstance(value, str) or type(value) is int
