"""An image's picture with the boxes of its regions, or the best substitute where something is missing."""

from math import isqrt

import numpy as np
from PIL import Image

from config.errors import UserError
from datasets.features.store import ImageRegions
from datasets.pictures.picture import UnreadableError, open_upright
from serving.reports.drawing import BoxedPicture
from serving.reports.pictures import PictureFolder

GREY = "#c9ced6"
GRID_CANVAS = 256, 256  # pixels of the grey ground for a grid without a picture


def region_view(
    image_id: str, regions: ImageRegions, pictures: PictureFolder
) -> tuple[BoxedPicture, list[str]]:
    """Return the picture with the boxes and labels of its regions, and notes on what is missing.

    A label is the region's number, from 1, and its tag. Without boxes, a square number of regions is taken
    for a grid. Without a picture, the ground is grey. Boxes are scaled from the size of the image in which
    they were found to that of the picture; if the former is unknown and boxes reach outside the picture, all
    boxes are shrunk until they fit. Raises UserError for a single region, for regions with neither boxes nor
    a grid, for a box with NaN or infinity, and for a picture that cannot be opened.
    """
    if regions.features.ndim != 2 or len(regions.features) < 2:
        raise UserError(
            f"image {image_id}: expected features of two regions or more, got one vector, which has "
            "no parts; use features [N,R,F]"
        )
    count = len(regions.features)
    picture, notes = _open(image_id, pictures)
    boxes, size = regions.boxes, regions.image_size
    if boxes is None:
        boxes, size = grid_boxes(image_id, count), (1, 1)
        side = isqrt(count)
        notes.append(
            f"no boxes are stored: the {count} regions are drawn as a grid of {side} x {side}, row by row"
        )
    boxes = np.asarray(boxes, np.float64)
    if not np.isfinite(boxes).all():
        raise UserError(f"image {image_id}: a box holds NaN or infinity; extract its regions again")
    reach = tuple(np.ceil(boxes[:, 2:].max(axis=0).clip(min=1)).astype(int).tolist())
    if picture is None:
        picture = Image.new("RGB", GRID_CANVAS if regions.boxes is None else size or reach, GREY)
    boxes, shrunk = _fit(boxes, size, reach, picture.size)
    notes += shrunk
    tags = regions.tags if regions.tags and len(regions.tags) == count else [""] * count
    return BoxedPicture(
        picture, boxes, [f"{number} {tag}".strip() for number, tag in enumerate(tags, start=1)]
    ), notes


def grid_boxes(image_id: str, count: int) -> np.ndarray:
    """Return the cells of a square grid over a picture of size 1 x 1, row by row, float64 [count,4].

    Raises UserError if `count` is not a square number.
    """
    side = isqrt(count)
    if side * side != count:
        raise UserError(
            f"image {image_id}: expected the boxes of its {count} regions, got none, and {count} is not a "
            "square number, as of a grid; store them beside the features, as SPLIT_boxes.npy [N,R,4]"
        )
    rows, columns = np.divmod(np.arange(count), side)
    return np.stack([columns, rows, columns + 1, rows + 1], axis=1) / side


def _open(image_id: str, pictures: PictureFolder) -> tuple[Image.Image | None, list[str]]:
    path = pictures.find(image_id)
    if path is None:
        where = f" in {pictures.folder}" if pictures.folder else ""
        advice = "name the folder of the pictures with DATASET.IMAGE_DIR=path/to/pictures"
        return None, [f"no picture of {image_id}{where}: drawn on grey; {advice}"]
    try:
        return open_upright(path), []
    except UnreadableError as error:
        raise UserError(f"{path} cannot be opened as a picture: {error}; replace it") from error


def _fit(
    boxes: np.ndarray, size: tuple[int, int] | None, reach: tuple[int, int], picture: tuple[int, int]
) -> tuple[np.ndarray, list[str]]:
    """Return the boxes in the picture's pixels, and a note if the scale was guessed.

    `size` is that of the image in which the boxes were found, if it is known. `reach` is the largest x and y
    of the boxes, `picture` the size of the picture.
    """
    if size is not None:
        return boxes * np.tile(np.divide(picture, size), 2), []
    factor = min(picture[0] / reach[0], picture[1] / reach[1])
    if factor >= 1:
        return boxes, []
    return boxes * factor, [
        f"the boxes reach {reach[0]} x {reach[1]} pixels, the picture has {picture[0]} x {picture[1]}: they "
        f"are drawn at {factor:.2f} of their size, and may be some pixels off"
    ]
