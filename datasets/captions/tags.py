"""Object tags of a split's images for Oscar, from a detector or from the images' classes."""

from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError
from datasets.captions.load import CaptionSplit, find_rows
from datasets.features.predictions import Predictions
from datasets.features.store import FeatureStore
from datasets.text_files import read_lines, refuse_duplicates


def tags_of_features(features: FeatureStore, split: CaptionSplit) -> Iterator[list[str]]:
    """Yield the tags of each image that its features hold; raise `UserError` for an image without tags."""
    for image_id, row in zip(split.image_ids, split.image_rows.tolist(), strict=True):
        tags = features.annotations(row).tags
        if tags is None:
            raise UserError(
                f"{features.path}: no tags of the image {image_id!r}: bring the detector's predictions.tsv, "
                "X_tags.txt beside X_ims.npy or classes, or set INPUT.ADD_OD_LABEL=False"
            )
        yield tags


def tags_of_predictions(path: str | Path, split: CaptionSplit) -> Iterator[list[str]]:
    """Yield the tags of each image: the classes that `predictions.tsv` lists for it.

    Raises `UserError` for an image that is not in the file.
    """
    predictions = Predictions(Path(path))
    for image_id in split.image_ids:
        yield predictions.annotations(image_id, num_regions=0).tags


def tags_of_classes(path: str | Path, split: CaptionSplit) -> Iterator[list[str]]:
    """Yield the class of each image as its only tag.

    `path` is `X_class.txt`, one class per line, for the images that `X_ids.txt` beside it names; without that
    file, for the images in the order of the split. Raises `UserError` if lines and images do not fit.
    """
    path = Path(path)
    classes = read_lines(path, "class")
    ids_path = path.with_name(path.name.replace("class", "ids"))
    if ids_path != path and ids_path.is_file():
        ids = read_lines(ids_path, "image id")
        _check_count(path, len(classes), len(ids), str(ids_path))
        rows = find_rows([split.image_ids], refuse_duplicates(ids_path, ids), path, f"{ids_path}: no line")
    else:
        _check_count(path, len(classes), len(split.image_ids), split.name)
        rows = range(len(classes))
    for row in rows:
        yield [classes[row].replace("_", " ")]


def _check_count(path: Path, found: int, expected: int, source: str) -> None:
    if found != expected:
        raise UserError(
            f"{path}: {found} classes for the {expected} images of {source}, expected one a line for each: "
            "mend the file"
        )
