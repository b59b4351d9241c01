"""What an index is built from: a folder of pictures, a file of features, or a file of captions."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from config.errors import UserError, cut
from datasets.names import same_name
from datasets.preparation.columns import SPREADSHEETS, Columns, is_header, names_pictures
from datasets.text_files import numbered_lines, parse_json, read_text
from serving.index.items import Item, check_metadata, checked_items

_JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
_TABLE_ENDINGS = (".csv", *SPREADSHEETS)  # what reads tables refuses spreadsheets
_FORMS = (
    'expected lines of "id", "caption" and "metadata" or of "image" and "caption", an id, a tab and a '
    "sentence a line, CSV or TSV with a header, or the JSON of COCO or Karpathy"
)
_OWN_KEYS = {"id", "caption", "metadata"}
_SHOWN = 5  # problems of a file in a message


class Encoder(Protocol):
    """What makes vectors of a model; a bundle is one.

    `identity` names the model and its version, `dimension` is D, and `measure` "cosine" or "order".
    """

    identity: str
    dimension: int
    measure: str

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Return the vectors [N,D] of sentences."""

    def encode_features(self, features: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Return the vectors [N,D] of pictures' features [N,F], or of `counts` [N] regions each, [N,R,F]."""

    def encode_pictures(self, paths: list[Path]) -> np.ndarray:
        """Return the vectors [N,D] of picture files."""


@dataclass
class Source:
    """The items of a gallery, and how a part of them is encoded. `kind` is pictures, features or captions."""

    kind: str
    path: Path
    items: list[Item]
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # of the file, for features
    store: object = None
    queries: list[tuple[str, str]] = field(default_factory=list)  # ids and sentences that describe them
    captions: Path | None = None  # the file of these sentences
    outside: list[str] = field(default_factory=list)  # sentences about nothing that the gallery holds
    dev_captions: Path | None = None  # the file of these sentences
    pictures: Path | None = None  # of which the features are, where that is known

    @property
    def holds(self) -> str:
        """Return what the vectors are of: "pictures" or "captions"."""
        return "captions" if self.kind == "captions" else "pictures"

    def encode(self, encoder: Encoder, part: slice) -> np.ndarray:
        """Return the vectors [n,D] of a part of the items; raise UserError for what cannot be read."""
        if self.kind == "captions":
            return encoder.encode_texts([item.caption for item in self.items[part]])
        if self.kind == "pictures":
            return encoder.encode_pictures([self.path / item.id for item in self.items[part]])
        rows = self.rows[part]
        counts = None if self.store.max_regions is None else self.store.counts(rows)
        features = self.store.gather(rows, pool=False)
        try:
            return encoder.encode_features(features, counts)
        except UserError as error:  # which knows the array, not its file
            raise UserError(f"{self.path}: {error}") from error

    def limited_to(self, items: Sequence[Item], where: object) -> "Source":
        """Return the source of `items` alone, as the caller describes them; refuse those that it lacks."""
        place = {item.id: number for number, item in enumerate(self.items)}
        missing = [item.id for item in items if item.id not in place]
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (
                f" ({len(missing)} in all)" if len(missing) > 5 else ""
            )
            raise UserError(
                f"{where}: its item {shown} is not in {self.path}: give a --gallery that has all items"
            )
        rows = self.rows[[place[item.id] for item in items]] if self.kind == "features" else self.rows
        names = {item.id for item in items}
        queries = [query for query in self.queries if query[0] in names]
        return replace(self, items=list(items), rows=rows, queries=queries)

    def describe(self) -> dict[str, str]:
        """Return the kind and the files, for the card."""
        named = {name: getattr(self, name) for name in ("path", "captions", "dev_captions", "pictures")}
        files = {name: path for name, path in named.items() if path}
        return {"kind": self.kind, **{name: str(path.resolve()) for name, path in files.items()}}


def open_source(
    gallery: str | Path,
    captions: str | Path | None = None,
    dev_captions: str | Path | None = None,
    left_out: Collection[str] = (),
) -> Source:
    """Open a folder of pictures, a file of features (.npy, .h5, .tsv of regions) or captions (.txt, .jsonl).

    `captions`: a file of sentences, captions and metadata of the gallery's items. `dev_captions`: a file of
    sentences about other pictures. `left_out`: pictures of the folder that are no items, nor their sentences.
    Raises UserError for what is none of these, and for sentences of items that are not in the gallery.
    """
    gallery = Path(gallery)
    if gallery.suffix in (".txt", ".jsonl"):
        lines = read_sentences(gallery, captions_needed=True)
        items = [Item(each.id, each.caption, each.metadata) for each in lines]
        source = Source("captions", gallery, checked_items(items, str(gallery)))
    elif gallery.is_dir():
        from datasets.pictures.files import PictureFiles

        names = [name for name in PictureFiles(gallery).names if name not in left_out]
        if not names:
            raise UserError(f"{gallery}: none of its {len(left_out)} pictures is left")
        source = Source("pictures", gallery, checked_items(map(Item, names), str(gallery)))
    elif gallery.suffix == ".zip":
        raise UserError(f"{gallery}: expected a folder of pictures: unpack it, and name the folder")
    elif not gallery.exists():
        raise UserError(f"{gallery}: no such file or folder, expected pictures, features or captions")
    else:
        from datasets.features.formats import open_features
        from datasets.preparation.state import pictures_of

        store = open_features(gallery)
        ids = store.image_ids or [str(row) for row in range(len(store))]
        items = checked_items(map(Item, map(str, ids)), str(gallery))
        pictures = pictures_of(gallery.parent)
        source = Source("features", gallery, items, np.arange(len(ids)), store, pictures=pictures)
    if dev_captions:
        lines = read_sentences(Path(dev_captions), captions_needed=True)
        sentences = list(dict.fromkeys(each.caption for each in lines))
        source = replace(source, outside=sentences, dev_captions=Path(dev_captions))
    return _described(source, Path(captions), left_out) if captions else source


def read_sentences(path: Path, captions_needed: bool = False) -> list[Item]:
    """Return the id, sentence and metadata of each line of a file, which may repeat ids.

    Objects a line have "id", and perhaps "caption" and "metadata". Tables are all that `read_table` of
    datasets/preparation reads: lines of objects such as "image" and "caption", the JSON of COCO and Karpathy,
    and CSV and TSV with a header, which tells the columns of pictures and captions. Other lines are an id, a
    tab and a sentence, where what follows `#` in the id is left out, as in Flickr30k's file; a line without a
    tab is a sentence, whose id is its number. Raises UserError that names a line which is neither, or, with
    `captions_needed`, has no caption.
    """
    return [item for _, item in _placed_sentences(path, captions_needed)]


def read_descriptions(path: Path) -> list[tuple[Item, set[str]]]:
    """Return what `read_sentences` does, each item with the keys that its line gives, such as "caption"."""
    items, text = read_sentences(path), read_text(path)
    if path.suffix.lower() not in _JSON_ENDINGS or _is_table(path, text):
        return [(item, {"caption"}) for item in items]
    lines = (line for _, line in numbered_lines(text))
    return [(item, {*json.loads(line)}) for item, line in zip(items, lines, strict=True)]


def _placed_sentences(path: Path, captions_needed: bool = False) -> list[tuple[str, Item]]:
    """Return what `read_sentences` does, each with its file and line."""
    if path.suffix.lower() in _TABLE_ENDINGS:
        return _table_rows(path)
    text = read_text(path, f"give the file of captions, {_FORMS}")
    if _is_table(path, text):
        return _table_rows(path)
    read = _json_line if path.suffix.lower() in _JSON_ENDINGS else _plain_line
    found = [(f"{path} line {number}", read(path, number, line)) for number, line in numbered_lines(text)]
    if not found:
        raise UserError(f"{path}: empty, expected a sentence a line")
    for place, item in found:
        if captions_needed and not item.caption:
            raise UserError(f"{place}: no caption, and every line needs a caption: it is what is encoded")
    return found


def _is_table(path: Path, text: str) -> bool:
    """Tell whether `read_table` reads a file, rather than line by line what an index has of its own."""
    first = next((line for _, line in numbered_lines(text)), "")
    return _holds_pictures(first) if path.suffix.lower() in _JSON_ENDINGS else is_header(first)


def _holds_pictures(first: str) -> bool:
    """Tell whether JSON that begins with a line is a table, rather than our objects of "id" a line."""
    try:
        content = json.loads(first)
    except (ValueError, RecursionError):
        return first.lstrip()[:1] == "[" or first.strip() == "{"  # indented
    if not isinstance(content, dict):
        return True
    return "metadata" not in content and (names_pictures(content) or not _OWN_KEYS & content.keys())


def _table_rows(path: Path) -> list[tuple[str, Item]]:
    from datasets.preparation.problems import EMPTY, Problems
    from datasets.preparation.tables import read_table

    problems = Problems()
    rows = read_table(path, Columns(has_options=False), problems).rows
    for row in rows:
        if not row.caption.strip():
            problems.add(EMPTY, f"{row.place}: {row.picture}")
    for kind, lines in problems.found.items():
        shown = "; ".join(lines[:_SHOWN]) + ("; ..." if len(lines) > _SHOWN else "")
        raise UserError(f"{path} {shown} ({len(lines)} {kind.name}): {kind.mend}")
    if not rows:
        raise UserError(f"{path}: empty, expected a caption a row")
    return [(f"{path} {row.place}", Item(row.picture, row.caption.strip())) for row in rows]


def _plain_line(path: Path, number: int, line: str) -> Item:
    name, tab, sentence = line.partition("\t")
    if not tab:
        return Item(str(number), line.strip())
    if not sentence.strip() or not name.partition("#")[0].strip():
        raise UserError(f"{path} line {number}: expected an id, a tab and a sentence, got {cut(line, 60)!r}")
    return Item(name.partition("#")[0].strip(), sentence.strip())


def _json_line(path: Path, number: int, line: str) -> Item:
    where = f"{path} line {number}"
    content = parse_json(path, line, f" line {number}")
    if not isinstance(content, dict) or set(content) - _OWN_KEYS:
        raise UserError(
            f'{where}: expected an object of "id", "caption" and "metadata", or of "image" and "caption", '
            f"got {cut(line, 60)!r}"
        )
    name, caption, metadata = (
        content.get("id", str(number)),
        content.get("caption"),
        content.get("metadata", {}),
    )
    if (
        not isinstance(name, str | int)
        or not isinstance(caption, str | None)
        or not isinstance(metadata, dict)
    ):
        raise UserError(
            f"{where}: expected a text as id and caption, and an object as metadata, got {cut(line, 60)!r}"
        )
    check_metadata(metadata, f"{where}: {cut(name)!r}")
    return Item(str(name), (caption or "").strip() or None, metadata)


def _described(source: Source, path: Path, left_out: Collection[str]) -> Source:
    """Return the source with the captions, metadata and queries of a file."""
    if not path.exists():
        raise UserError(f"--captions: {path}: no such file, expected sentences of the items of {source.path}")
    place = {item.id: number for number, item in enumerate(source.items)}
    placed = _placed_sentences(path)
    lines = [line for _, line in placed]
    if source.kind == "pictures":  # a file may name a picture without its folder or ending
        from datasets.pictures.files import PictureFiles

        files = PictureFiles(source.path)
        if all(where == f"{path} line {line.id}" and not files.fitting(line.id) for where, line in placed):
            raise UserError(f"{path}: sentences that name no picture: {_FORMS}")
        names = files.find([each.id for each in lines], (where for where, _ in placed))
        lines = [replace(each, id=name) for each, name in zip(lines, names, strict=True)]
    else:
        lines = [_named(each, place) for each in lines]
    unknown = [
        (where, each.id)
        for (where, _), each in zip(placed, lines, strict=True)
        if each.id not in place and each.id not in left_out
    ]
    if unknown:
        where, name = unknown[0]
        others = [repr(cut(other)) for other in dict.fromkeys(other for _, other in unknown)][1:_SHOWN]
        more = f", nor {', '.join(others)}" if others else ""
        raise UserError(
            f"{where}: there is no item {cut(name)!r}{more} in {source.path} ({len(unknown)} such lines)"
        )
    items = list(source.items)
    lines = [line for line in lines if line.id in place]
    for line in lines:
        item = items[place[line.id]]
        caption = item.caption or line.caption
        items[place[line.id]] = Item(item.id, caption, item.metadata | line.metadata)
    queries = [(line.id, line.caption) for line in lines if line.caption]
    return replace(source, items=checked_items(items, str(path)), queries=queries, captions=path)


def _named(line: Item, place: dict[str, int]) -> Item:
    """Return a line under the name of its item, which macOS may write in another form of Unicode."""
    names = [line.id] if line.id.isascii() else same_name(line.id, place)
    return replace(line, id=names[0]) if len(names) == 1 else line
