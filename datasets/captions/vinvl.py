"""Read VinVL's text files: captions by image key, lists of image keys, and candidate captions of images."""

from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from datasets.captions.json_files import load_json
from datasets.captions.load import CaptionSplit, find_rows
from datasets.features.store import FeatureStore
from datasets.names import composed, same_name
from datasets.pairs import Pairs, captions_by_image
from datasets.text_files import read_lines, refuse_duplicates, shown_json


def load_vinvl_captions(
    path: str | Path,
    features: FeatureStore,
    keys_path: str | Path | None = None,
    captions_per_image: int = 0,
    name: str = "",
) -> CaptionSplit:
    """Read captions in JSON, image key -> list of captions, and find each image's row by its key.

    `keys_path` is a file with one image key per line: the images to take, in their order; None takes all.
    `captions_per_image` takes only the first captions of each image; 0 takes all. `name` is the name of the
    split. Raises `UserError` that names a key without captions or features, or an entry that is no caption.
    """
    path = Path(path)
    captions_of = _read_captions(path)
    if keys_path is None:
        keys = list(captions_of)
    else:
        keys = _read_keys(Path(keys_path), path, captions_of)
    captions, caption_image = [], []
    for image, key in enumerate(keys):
        own = _check_captions(path, key, captions_of[key])
        captions += own[:captions_per_image] if captions_per_image else own
        caption_image += [image] * (len(captions) - len(caption_image))
    if features.row_of is None:
        raise UserError(
            f"{features.path}: its rows have no ids, expected the image keys of {path}: write them into "
            "X_ids.txt beside X_ims.npy, one a line, or into the file's data set ids"
        )
    rows = find_rows([keys], features.row_of, path, f"{features.path}: no row")
    return CaptionSplit(
        name or path.stem, keys, np.array(rows, np.int64), captions, np.array(caption_image, np.int64)
    )


def read_vinvl_captions(path: str | Path) -> list[str]:
    """Return all captions of such a file alone, to build a vocabulary."""
    path = Path(path)
    captions_of = _read_captions(path)
    return [text for key, captions in captions_of.items() for text in _check_captions(path, key, captions)]


def read_caption_index(path: str | Path, split: CaptionSplit, candidates: int = 0) -> Pairs:
    """Read which captions are scored with which image: JSON, image key -> list of [image key, number].

    `number` is the 0-based place of a caption among its image's captions. `candidates` takes only the first
    candidates of each image; 0 takes all. The pairs follow the order of the split's images. Raises
    `UserError` that names an image without a list, or an entry that points past the images or their captions.
    """
    path = Path(path)
    lists = _read_object(path, "image keys to lists of [image key, caption number]")
    image_of = {key: image for image, key in enumerate(split.image_ids)}
    for key, image in list(image_of.items()):
        image_of.setdefault(composed(key), image)
    order, starts = captions_by_image(split.caption_image, len(split.image_ids))
    images, captions = [], []
    for image, key in enumerate(split.image_ids):
        names = [key] if key in lists else same_name(key, lists)
        if len(names) != 1:
            raise UserError(
                f"{path}: no candidates of the image {cut(key)!r} of {split.name}: make the file for this "
                "split"
            )
        listed = lists[names[0]]
        if not isinstance(listed, list) or not listed:
            raise UserError(f"{path}: key {cut(key)!r}: expected a list of [image key, caption number]")
        for place, entry in enumerate(listed[: candidates or None]):
            owner, number = _check_entry(path, key, place, entry)
            where = f"{path}: key {cut(key)!r}, entry {place + 1} is [{cut(owner)!r}, {str(number)[:20]}]"
            owner = owner if owner in image_of else composed(owner)
            if owner not in image_of:
                raise UserError(
                    f"{where}, but {split.name} has no image {cut(owner)!r}: make it for this split"
                )
            own = order[starts[image_of[owner]] : starts[image_of[owner] + 1]]
            if not 0 <= number < len(own):
                raise UserError(
                    f"{where}, but that image has {len(own)} captions, numbered from 0: make the file for "
                    "these captions, or take more captions an image"
                )
            images.append(image)
            captions.append(own[number])
    return Pairs(np.array(images, dtype=np.int64), np.array(captions, dtype=np.int64))


def _read_captions(path: Path) -> dict[str, object]:
    pickled = path.with_suffix(".pt")
    if not path.is_file() and pickled.is_file():
        raise UserError(
            f"{path}: no such file, but {pickled.name} is there: convert it with "
            f"python tools/convert_weights.py {pickled} {path}, or into another folder, and "
            "name the new file with DATASET.CAPTION_FILE"
        )
    return _read_object(path, "image keys to lists of captions")


def _read_keys(keys_path: Path, path: Path, captions_of: dict[str, object]) -> list[str]:
    listed = read_lines(keys_path, "image key")
    refuse_duplicates(keys_path, listed)
    keys, missing = [], []
    for line, key in enumerate(listed, 1):
        names = [key] if key in captions_of else same_name(key, captions_of)
        if len(names) == 1:
            keys += names
        else:
            missing.append((key, line))
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(
            f"{path}: no captions of the image {cut(missing[0][0])!r}{others}, which {keys_path} lists on "
            f"line {missing[0][1]}: add them, or name the list of these images"
        )
    return keys


def _read_object(path: Path, what: str) -> dict[str, object]:
    """Read a JSON object that is not empty and has no key twice."""
    content = load_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a JSON object from {what}")
    return content


def _check_captions(path: Path, key: str, captions: object) -> list[str]:
    if not isinstance(captions, list) or not captions:
        raise UserError(f"{path}: key {cut(key)!r}: expected a list of captions, got {str(captions)[:40]!r}")
    for number, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(
                f"{path}: key {cut(key)!r}, caption {number + 1}: expected text, got {repr(caption)[:60]}: "
                "fill it in or remove it"
            )
    return [caption.strip() for caption in captions]


def _check_entry(path: Path, key: str, place: int, entry: object) -> tuple[str, int]:
    if isinstance(entry, list) and len(entry) == 2:
        owner, number = entry
        if isinstance(owner, str | int) and type(number) is int:
            return str(owner), number
    raise UserError(
        f"{path}: key {cut(key)!r}, entry {place + 1}: expected [image key, caption number], got "
        f"{shown_json(entry)}: make the file again"
    )
