"""Read captions in plain JSON: from images to captions, a list of records, or COCO's captions files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from config.errors import UserError, cut
from datasets.captions.listing import Listing, no_such_split
from datasets.names import composed
from datasets.text_files import parse_json, read_text, refuse_duplicates, shown_json

Row = tuple[str, str, str | None, list[str]]  # place in the file, image, split, captions
_FORMS = (
    'expected {"a.jpg": ["a caption", ...], ...}, a list of {"image": "a.jpg", "caption": "a caption"}, or '
    "COCO's images and annotations"
)


def read_json(path: Path, split: str, file_per_split: bool) -> Listing:
    """Read the images of a split and their captions.

    A file whose records name no splits must belong to the split alone, as `file_per_split` tells. Raises
    `UserError` that names the wrong image or record.
    """
    content = load_json(path)
    if is_karpathy(content):
        raise UserError(f"{path}: this is Karpathy's split JSON: set DATASET.FORMAT=karpathy")
    if not has_splits(content) and not file_per_split:
        raise UserError(
            f"{path}: it names no splits: give each record a 'split', or each split a file of its own and "
            "name them all, such as DATASET.CAPTION_FILE={split}.json"
        )
    return list_captions(path, content, (split,))


def load_json(path: Path) -> object:
    """Parse a JSON file.

    Raises `UserError` that names the line of a syntax error, or a key that occurs twice in an object.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{path}: the key {cut(twice)!r} comes twice: give each image one list")
        return content

    return parse_json(path, read_text(path), object_pairs_hook=unique)


def is_karpathy(content: object) -> bool:
    """Return whether `content` is Karpathy's JSON, in which images hold their sentences."""
    return (
        isinstance(content, dict)
        and _holds_objects(content, "images")
        and any("sentences" in image for image in content["images"] if isinstance(image, dict))
    )


def has_splits(content: object) -> bool:
    """Return whether any record names its split."""
    return isinstance(content, list) and any(
        isinstance(record, dict) and "split" in record for record in content
    )


def list_captions(path: Path, content: object, splits: Sequence[str] = ()) -> Listing:
    """Return the images and captions of a parsed file.

    Where records name splits, only those of `splits` are returned; () stands for all. Raises `UserError` that
    names the wrong image or record.
    """
    if isinstance(content, dict) and (_holds_objects(content, "images") or "annotations" in content):
        return _list_coco(path, content)
    if not isinstance(content, dict | list) or not content:
        raise UserError(f"{path}: {_FORMS}")
    rows = _entries(path, content) if isinstance(content, dict) else _records(path, content)
    return _gather(path, rows, splits if has_splits(content) else ())


def _entries(path: Path, content: dict[str, object]) -> Iterator[Row]:
    for number, (image, texts) in enumerate(content.items(), 1):
        if not image.strip():
            raise UserError(
                f"{path}: image {number}: expected the name of a picture, got {shown_json(image)}"
            )
        yield f"image {number}", image.strip(), None, _texts(f"{path}: {cut(image)!r}", texts)


def _records(path: Path, records: list) -> Iterator[Row]:
    with_splits = has_splits(records)
    for number, record in enumerate(records, 1):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: {shown_json(record)}: {_FORMS}")
        image, split = record.get("image"), record.get("split")
        if not _is_name(image):
            raise UserError(f"{where}: expected the name of a picture as 'image', got {shown_json(image)}")
        if with_splits and (not isinstance(split, str) or not split.strip()):
            raise UserError(
                f"{where}: expected the name of a split, as other records have, got {shown_json(split)}"
            )
        keys = [key for key in ("caption", "captions") if key in record]
        if len(keys) != 1:
            found = "both" if keys else "neither"
            raise UserError(f"{where} ({cut(image)!r}): expected 'caption' or 'captions', got {found}")
        texts = record[keys[0]]
        captions = _texts(f"{where} ({cut(image)!r})", [texts] if isinstance(texts, str) else texts)
        yield f"record {number}", str(image).strip(), split.strip() if with_splits else None, captions


def _gather(path: Path, rows: Iterable[Row], splits: Sequence[str]) -> Listing:
    """Collect rows into a listing; the rows of an image need not follow each other."""
    images: dict[str, int] = {}
    split_of: dict[str, str | None] = {}
    listing = Listing({})
    for place, name, split, captions in rows:
        image = composed(name)
        if split_of.setdefault(image, split) != split:
            raise UserError(
                f"{path}: {place}: {cut(image)!r} is of the split {cut(split)!r}, and of "
                f"{cut(split_of[image])!r} before: keep each image in one split"
            )
        if splits and split not in splits:
            continue
        if image not in images:
            images[image] = len(images)
            listing.places.append(place)
        listing.captions += captions
        listing.caption_image += [images[image]] * len(captions)
    if not images:
        raise no_such_split(path, splits[0], {split for split in split_of.values() if split})
    listing.names["image"] = list(images)
    return listing


def _list_coco(path: Path, content: dict) -> Listing:
    """Return the listing of COCO's captions: `images` with `id`, `file_name`; `annotations` with `image_id`.

    An image has two names: the name of its file and its id.
    """
    for key in ("images", "annotations"):
        if not _holds_objects(content, key):
            raise UserError(f"{path}: expected the list {key!r}, as in COCO's captions files")
    entries = content["images"]
    listing = Listing({"file_name": [], "id": []})
    for index, entry in enumerate(entries):
        for key, names in listing.names.items():
            name = entry.get(key) if isinstance(entry, dict) else None
            if not _is_name(name):
                raise UserError(f"{path}: images[{index}]: expected {key!r}, got {shown_json(name)}")
            names.append(composed(str(name)))
        listing.places.append(f"images[{index}]")
    refuse_duplicates(path, listing.names["file_name"], "image {}")
    image_of = refuse_duplicates(path, listing.names["id"], "image {}")
    for index, entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{index}]"
        image = image_of.get(str(entry.get("image_id"))) if isinstance(entry, dict) else None
        if image is None:
            got = shown_json(entry.get("image_id") if isinstance(entry, dict) else entry)
            raise UserError(f"{where}: expected the id of one of the images as 'image_id', got {got}")
        listing.captions += _texts(where, [entry.get("caption")])
        listing.caption_image.append(image)
        listing.caption_ids.append(str(entry.get("id", index)))
    bare = sorted(set(range(len(entries))) - set(listing.caption_image))
    if bare:
        name = listing.names["file_name"][bare[0]]
        raise UserError(
            f"{path}: images[{bare[0]}] ({cut(name)!r}): no annotation has a caption of it: add one, or "
            "remove it"
        )
    return listing


def _holds_objects(content: dict, key: str) -> bool:
    values = content.get(key)
    return isinstance(values, list) and any(isinstance(value, dict) for value in values)


def _texts(where: str, texts: object) -> list[str]:
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{where}: expected a list of captions, got {shown_json(texts)}")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: empty caption: fill it in or remove it, got {shown_json(text)}")
    return [text.strip() for text in texts]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) or type(value) is int
