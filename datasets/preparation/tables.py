"""Read tables of captions, whatever program wrote them: all rows, and what is wrong with those that fail.

A reader of training stops at the first fault (`datasets/captions`); here all are collected.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError
from datasets.captions.json_files import is_karpathy, load_json
from datasets.preparation.columns import SPREADSHEETS, Columns, choose_columns, delimiter_of
from datasets.preparation.problems import EMPTY, MALFORMED, MISSING, UNNAMED, Problems
from datasets.text_files import numbered_lines, read_text

_TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")  # Flickr8k.token.txt and results_20130124.token
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """A caption: its place in the file, the picture's name as written, the sentence, and the split or ""."""

    place: str
    picture: str
    caption: str
    split: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a caption file, and what it was read as."""

    rows: list[Row]
    described: str


def read_table(path: Path, wanted: Columns, problems: Problems) -> Table:
    """Read a table in CSV or TSV, JSON lines, COCO's, Karpathy's or plain JSON, or Flickr's token file.

    `wanted` are the columns or keys that the user named. Rows that cannot be read are added to `problems`.
    Raises UserError for a file whose layout is none of these, or whose columns have to be named.
    """
    if path.suffix.lower() in SPREADSHEETS:
        raise UserError(f"{path}: a spreadsheet's own file is not read: export it as CSV in UTF-8")
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the captions of the pictures")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes, more than a table of captions has")
    text = read_text(path)
    first = next((line for _, line in numbered_lines(text)), "")
    if not first:
        raise UserError(f"{path}: empty file, expected a caption a row")
    if path.suffix.lower() in (".jsonl", ".ndjson") or _is_json_lines(text, first):
        return _records(path, _json_lines(path, text, problems), wanted, problems, "JSON lines")
    if first.lstrip().startswith(("{", "[")):
        return _json(path, wanted, problems)
    if _TOKEN_LINE.fullmatch(first):
        return Table(list(_token_rows(text, problems)), "Flickr's token file")
    return _delimited(path, text, first, wanted, problems)


def _is_json_lines(text: str, first: str) -> bool:
    if not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return text.strip() != first.strip()


def _json_lines(path: Path, text: str, problems: Problems) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError):
            problems.add(MALFORMED, f"line {number}: not JSON: {line.strip()[:60]}")


def _json(path: Path, wanted: Columns, problems: Problems) -> Table:
    content = load_json(path)
    if is_karpathy(content):
        return Table(list(_karpathy_rows(content["images"], problems)), "Karpathy's JSON")
    if isinstance(content, dict) and "annotations" in content:
        return Table(list(_coco_rows(path, content, problems)), "COCO's JSON")
    if isinstance(content, dict):
        return Table(
            [
                row
                for number, (name, texts) in enumerate(content.items(), 1)
                for row in _rows_of(f"image {number}", name, texts, "", problems)
            ],
            "JSON from pictures to captions",
        )
    if isinstance(content, list):
        records = ((f"record {number}", record) for number, record in enumerate(content, 1))
        return _records(path, records, wanted, problems, "JSON records")
    raise UserError(f"{path}: expected captions, got {json.dumps(content)[:60]}")


def _records(
    path: Path,
    records: Iterator[tuple[str, object]],
    wanted: Columns,
    problems: Problems,
    described: str,
) -> Table:
    found = []
    for place, record in records:
        if isinstance(record, dict):
            found.append((place, record))
        else:
            problems.add(MALFORMED, f"{place}: expected a record, got {json.dumps(record)[:60]}")
    if not found:
        raise UserError(f'{path}: no records, expected some such as {{"image": "a.jpg", "caption": "a dog"}}')
    keys = list(dict.fromkeys(key for _, record in found for key in record))
    columns = choose_columns(str(path), keys, wanted)
    split = columns.split
    rows = [
        row
        for place, record in found
        for key in columns.captions
        if key in record or len(columns.captions) == 1
        for row in _rows_of(
            place, record.get(columns.picture), record.get(key), record.get(split) if split else "", problems
        )
    ]
    return Table(rows, f"{described}: {columns.describe()}")


def _rows_of(place: str, name: object, texts: object, split: object, problems: Problems) -> Iterator[Row]:
    """Yield the captions of a picture in JSON, which holds a text or a list of texts."""
    picture = str(name).strip() if isinstance(name, str | int) else ""
    if not picture:
        problems.add(UNNAMED, place)
        return
    for text in texts if isinstance(texts, list) and texts else [texts]:
        if text is None or isinstance(text, str):
            yield Row(place, picture, text or "", str(split or "").strip())
        else:
            problems.add(MALFORMED, f"{place}: expected a caption, got {json.dumps(text)[:60]}")


def _karpathy_rows(images: list, problems: Problems) -> Iterator[Row]:
    for number, image in enumerate(images):
        place = f"images[{number}]"
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
            problems.add(MALFORMED, f"{place}: expected an object with filename and sentences")
            continue
        folder, name = image.get("filepath"), image.get("filename")
        if folder and name:
            name = f"{folder}/{name}"
        texts = [_karpathy_text(sentence) for sentence in image["sentences"]]
        yield from _rows_of(place, name, texts, image.get("split"), problems)


def _karpathy_text(sentence: object) -> object:
    """Return a sentence as it was written or, without that, its tokens; all else as it is."""
    if not isinstance(sentence, dict):
        return sentence
    tokens = sentence.get("tokens")
    written = " ".join(map(str, tokens)) if isinstance(tokens, list) else tokens
    return sentence.get("raw") or written


def _coco_rows(path: Path, content: dict, problems: Problems) -> Iterator[Row]:
    images, annotations = content.get("images"), content["annotations"]
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: expected the lists 'images' and 'annotations', as in COCO's captions files")
    names = {
        str(image.get("id")): str(image.get("file_name") or "") for image in images if isinstance(image, dict)
    }
    for number, entry in enumerate(annotations):
        place = f"annotations[{number}]"
        if not isinstance(entry, dict):
            problems.add(MALFORMED, f"{place}: expected an object with image_id and caption")
        elif str(entry.get("image_id")) not in names:
            problems.add(MISSING, f"{place}: no image has the id {json.dumps(entry.get('image_id'))[:60]}")
        else:
            yield from _rows_of(place, names[str(entry["image_id"])], entry.get("caption"), "", problems)


def _token_rows(text: str, problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        found = _TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if found:
            yield Row(f"line {number}", found[1].strip(), found[2])
        else:
            problems.add(MALFORMED, f"line {number}: expected name#number, a tab and a caption: {line[:60]}")


def _delimited(path: Path, text: str, first: str, wanted: Columns, problems: Problems) -> Table:
    delimiter = delimiter_of(first)
    if delimiter not in first:
        raise UserError(
            f"{path} line 1: one column, expected a header such as image,caption and a caption a row"
        )
    rows = _cells(path, text, delimiter)
    _, header = next(rows)
    header = [name.strip() for name in header]
    columns = choose_columns(f"{path} line 1", header, wanted)
    places = [
        header.index(columns.picture),
        [at for at, name in enumerate(header) if name in columns.captions],
    ]
    picture_at, captions_at = places
    split_at = header.index(columns.split) if columns.split else None
    found = []
    for line, cells in rows:
        place = f"line {line}"
        if len(cells) != len(header):
            shown = delimiter.join(cells)[:60]
            problems.add(MALFORMED, f"{place}: {len(cells)} columns, expected {len(header)}: {shown}")
            continue
        picture = cells[picture_at].strip()
        if not picture:
            problems.add(UNNAMED, f"{place}: {delimiter.join(cells)[:60]}")
            continue
        picture = re.sub(r"#\d+$", "", picture) if _is_numbered(picture) else picture
        split = "" if split_at is None else cells[split_at].strip()
        captions = [cells[at] for at in captions_at]
        if len(captions) > 1:  # columns of captions that a picture does not have
            captions = [caption for caption in captions if caption.strip()]
            if not captions:
                problems.add(EMPTY, f"{place}: {picture}")
        found += [Row(place, picture, caption, split) for caption in captions]
    kind = {"\t": "TSV", ",": "CSV"}.get(delimiter, f"columns between {delimiter}")
    return Table(found, f"{kind}: {columns.describe()}")


def _is_numbered(name: str) -> bool:
    """Tell whether a name is Flickr's `name.jpg#0`."""
    return bool(re.search(r"\.\w+#\d+$", name))


def _cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield each row that is not blank, with the number of its first line."""
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    started = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield started, cells
            started = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} line {started}: not CSV: {error}: close the quote that opens there, and double each "
            "quote inside a caption"
        ) from error
