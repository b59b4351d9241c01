"""Tie each caption to its image, and each image to its row of features.

Whatever a data set's layout, explicit indices tie images, captions and rows from here on: no later code
assumes a fixed number of captions per image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, cut, some
from config.values import SPLIT, data_path
from datasets.captions.json_files import read_json
from datasets.captions.listing import Listing, read_csv, read_karpathy
from datasets.features.store import FeatureStore
from datasets.names import AmbiguousNameError, UnknownNamesError, match_names
from datasets.relevance import Relevance
from datasets.text_files import read_lines, refuse_duplicates

# image_ids, image_rows and caption_image of a CaptionSplit
Ties = tuple[list[str], Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class CaptionSplit:
    """The images and captions of one split.

    `image_ids` are the images' names. `image_rows` (int64 [images]) is each image's 0-based row in the
    feature file. `captions` are stripped texts. `caption_image` (int64 [captions]) is each caption's index
    into `image_ids`. `caption_ids` are the captions' names where their file has some, and `relevance` says
    which captions are right for which images; None: each for its own image alone.
    """

    name: str
    image_ids: list[str]
    image_rows: np.ndarray
    captions: list[str]
    caption_image: np.ndarray
    caption_ids: list[str] | None = None
    relevance: Relevance | None = None


def load_captions(
    format: str,
    data_dir: str | Path,
    split: str,
    caption_file: str,
    features: FeatureStore,
    captions_per_image: int = 0,
    use_restval: bool = False,
) -> CaptionSplit:
    """Read a split's captions and tie them to the rows of its features, by ids if the features have ids.

    `format` is precomp, karpathy, csv or json. All formats but precomp need `caption_file`, which is
    sought in `data_dir` first. `captions_per_image` is for precomp without ids; 0 infers it. `use_restval`
    adds Karpathy's split restval.
    Raises `UserError` that names file and line if captions and images do not fit each other.
    """
    path = caption_path(format, data_dir, split, caption_file)
    ids_path = Path(data_dir) / f"{split}_ids.txt"
    if format == "precomp":
        captions, caption_ids = read_lines(path, "caption"), None
        tie = _tie_precomp if features.row_of is None else _tie_precomp_by_id
        ties = tie(path, ids_path, len(captions), features, captions_per_image)
    else:
        listing = _read_listing(format, path, split, caption_file, use_restval)
        captions, caption_ids = listing.captions, listing.caption_ids or None
        ties = _tie_listing(path, ids_path, listing, features)
    image_ids, image_rows, caption_image = ties
    return CaptionSplit(
        split,
        image_ids,
        np.asarray(image_rows, np.int64),
        captions,
        np.asarray(caption_image, np.int64),
        caption_ids,
    )


def read_captions(
    format: str, data_dir: str | Path, split: str, caption_file: str, use_restval: bool
) -> list[str]:
    """Return a split's captions alone, to build a vocabulary; see `load_captions` for the arguments."""
    path = caption_path(format, data_dir, split, caption_file)
    if format == "precomp":
        return read_lines(path, "caption")
    return _read_listing(format, path, split, caption_file, use_restval).captions


def caption_path(format: str, data_dir: str | Path, split: str, caption_file: str) -> Path:
    """Return the file of a split's captions; `{split}` in `caption_file` stands for the split's name.

    Raises `UserError` if the format needs a `caption_file` and there is none.
    """
    if format == "precomp":
        return Path(data_dir) / f"{split}_caps.txt"
    if not caption_file:
        raise UserError(
            f"DATASET.FORMAT={format} needs DATASET.CAPTION_FILE, the file of captions in {data_dir}"
        )
    return data_path(data_dir, caption_file, split)


def _read_listing(format: str, path: Path, split: str, caption_file: str, use_restval: bool) -> Listing:
    if format == "karpathy":
        return read_karpathy(path, (split, "restval") if use_restval else (split,))
    read = {"csv": read_csv, "json": read_json}[format]
    return read(path, split, file_per_split=SPLIT in caption_file)


def _tie_listing(path: Path, ids_path: Path, listing: Listing, features: FeatureStore) -> Ties:
    """Find rows by the ids of the features or of an ids file; without ids, rows follow the listing."""
    image_ids, rows = next(iter(listing.names.values())), len(features)
    if features.row_of is not None:
        problem = f"{features.path}: no {features.row}"
        found = find_rows(
            listing.names.values(), features.row_of, path, problem, listing.places, features.mend
        )
        return image_ids, found, listing.caption_image
    if not ids_path.is_file():
        if len(image_ids) != rows:
            raise UserError(
                f"{path}: {len(image_ids)} images for the {rows} rows of {features.path}, expected a row for "
                f"each image in the order of this file: mend the files, or name the rows in {ids_path.name}"
            )
        return image_ids, range(rows), listing.caption_image
    ids = read_lines(ids_path, "image id")
    if len(ids) != rows:
        raise UserError(
            f"{ids_path}: {len(ids)} image ids, expected one for each of the {rows} rows of {features.path}: "
            f"{_miscount(len(ids), rows)}: mend the file"
        )
    row_of = refuse_duplicates(ids_path, ids)
    found = find_rows(listing.names.values(), row_of, path, f"{ids_path}: no line", listing.places)
    return image_ids, found, listing.caption_image


def find_rows(
    kinds: Iterable[list[str]],
    row_of: dict[str, int],
    path: Path,
    problem: str,
    places: Sequence[str] = (),
    mend: str = FeatureStore.mend,
) -> list[int]:
    """Return the row of each image, found by its name in `row_of`.

    `kinds` are lists of names [images], one for each kind of name, compared as `match_names` says. `path` is
    the file that names the images, and `places` tell where it names each. `problem` begins and `mend` ends
    the message. Raises `UserError` for an unknown name, or if several rows fit.
    """
    try:
        return match_names(list(kinds), row_of)
    except AmbiguousNameError as error:
        raise UserError(
            f"{problem} can be told for the images of {path}, {error}: give each image one name in both files"
        ) from error
    except UnknownNamesError as error:
        others = f" and {len(error.missing) - 1} others" if len(error.missing) > 1 else ""
        place = f" {places[error.place]}" if places else ""
        raise UserError(
            f"{problem} for the image {cut(error.missing[0])!r}{others} of {path}{place}: {mend}; "
            f"the names there are {some(map(repr, row_of), 3)}"
        ) from error


def _tie_precomp_by_id(
    path: Path, ids_path: Path, num_captions: int, features: FeatureStore, captions_per_image: int
) -> Ties:
    """Find rows by the ids of the split, of which there is one per image or one per caption."""
    if not ids_path.is_file():
        raise UserError(
            f"{ids_path}: no such file, expected the image ids of {path}, which tell the rows of "
            f"{features.path}: write one a line, for each image or for each caption"
        )
    ids = read_lines(ids_path, "image id")
    if len(ids) == num_captions:
        first_lines, caption_image = _group_lines(ids_path, ids)
        image_ids = list(first_lines)
    else:
        refuse_duplicates(ids_path, ids)
        image_ids = ids
        caption_image = _assign_evenly(path, ids_path, num_captions, len(ids), ids_path, captions_per_image)
    rows = find_rows([image_ids], features.row_of, ids_path, f"{features.path}: no row")
    return image_ids, rows, caption_image


def _tie_precomp(
    path: Path, ids_path: Path, num_captions: int, features: FeatureStore, captions_per_image: int
) -> Ties:
    """Tie one row per image or per caption, with one id per image, one per caption, or none."""
    rows = len(features)
    ids = read_lines(ids_path, "image id") if ids_path.is_file() else []
    if len(ids) == num_captions and rows <= num_captions:
        return _tie_caption_ids(ids_path, ids, features)
    if ids and len(ids) != rows:
        raise UserError(
            f"{ids_path}: {len(ids)} image ids, expected one for each of the {rows} rows of {features.path} "
            f"({_miscount(len(ids), rows)}), or one for each of the {num_captions} captions of {path} "
            f"({_miscount(len(ids), num_captions)}): mend the files"
        )
    if ids:
        refuse_duplicates(ids_path, ids)
    elif rows == num_captions and captions_per_image != 1:
        return _tie_repeated_rows(path, features, captions_per_image)
    caption_image = _assign_evenly(path, ids_path, num_captions, rows, features.path, captions_per_image)
    return ids or list(map(str, range(rows))), range(rows), caption_image


def _assign_evenly(
    path: Path, ids_path: Path, num_captions: int, num_images: int, images: Path, captions_per_image: int
) -> np.ndarray:
    """Assign the same number of captions to each image, in order; the file `images` tells their number."""
    per_image = captions_per_image or max(1, int(num_captions / num_images + 0.5))  # rounded
    expected = per_image * num_images
    if expected != num_captions:
        evenly, mend_count = "the same number for each image, such as ", ""
        if captions_per_image:
            evenly, mend_count = "", " or DATASET.CAPTIONS_PER_IMAGE"
        raise UserError(
            f"{path}: {num_captions} captions for the {num_images} images of {images}, expected {evenly}"
            f"{expected} ({per_image} an image; {_miscount(num_captions, expected)}): mend the files"
            f"{mend_count}, or write {ids_path.name} with the image id of each caption"
        )
    return np.repeat(np.arange(num_images), per_image)


def _miscount(found: int, expected: int) -> str:
    off = abs(found - expected)
    return f"{off} line{'s' if off > 1 else ''} {'missing' if found < expected else 'too many'}"


def _group_lines(path: Path, ids: list[str]) -> tuple[dict[str, int], list[int]]:
    """Return the first line of each image, and each caption's image.

    Raises `UserError` if the lines of an image do not follow each other.
    """
    first, caption_image = {}, []
    for line, image in enumerate(ids):
        if image not in first:
            first[image] = line
        elif ids[line - 1] != image:
            raise UserError(
                f"{path} line {line + 1}: duplicate image id {image!r}, also on line {first[image] + 1}: "
                "expected the lines of one image in succession"
            )
        caption_image.append(len(first) - 1)
    return first, caption_image


def _tie_caption_ids(path: Path, ids: list[str], features: FeatureStore) -> Ties:
    """Tie one id per caption to one row per image or per caption."""
    first, caption_image = _group_lines(path, ids)
    if len(features) == len(ids):
        return list(first), list(first.values()), caption_image
    if len(features) != len(first):
        raise UserError(
            f"{path}: {len(first)} different image ids, but {features.path} has {len(features)} rows: "
            f"expected one row an image, or one a caption ({len(ids)})"
        )
    return list(first), range(len(first)), caption_image


def _tie_repeated_rows(path: Path, features: FeatureStore, captions_per_image: int) -> Ties:
    """Tie one row per caption without ids.

    `captions_per_image` consecutive rows are one image; if it is 0, equal consecutive rows are.
    """
    rows = len(features)
    if captions_per_image == 0:
        starts = ~features.repeats_previous()
    elif rows % captions_per_image == 0:
        starts = np.arange(rows) % captions_per_image == 0
    else:
        raise UserError(
            f"{path}: {rows} captions and rows, expected a multiple of DATASET.CAPTIONS_PER_IMAGE "
            f"({captions_per_image}): mend the files, or set it to 0 to tell images by their rows"
        )
    image_rows = np.flatnonzero(starts)
    return list(map(str, range(len(image_rows)))), image_rows, np.cumsum(starts) - 1
