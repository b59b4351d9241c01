"""The pictures of a data set, as files and as thumbnails, and the contact sheet of a search's hits."""

import base64
import contextlib
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from config.errors import UserError
from config.values import data_path
from datasets.names import composed
from datasets.pictures.picture import UnreadableError, open_upright
from serving.reports.lettering import BACKGROUND, FAINT, INK, LINE, RIGHT, fitted, write

ENDINGS = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG")
THUMBNAIL = 160  # pixels a side
GAP = 12
CAPTION_HEIGHT = 20
HEADER_HEIGHT = 40


def image_folder(data_dir: str, image_dir: str, split: str) -> Path | None:
    """Return the folder of a split's pictures, as `data_path` finds it; None if `image_dir` is empty.

    `{split}` in `image_dir` stands for the name of the split. Raises UserError if there is no such folder.
    """
    folder = data_path(data_dir, image_dir, split) if image_dir else None
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"DATASET.IMAGE_DIR: {folder} is not a folder; set it to that of the pictures, or to nothing"
        )
    return folder


class PictureFolder:
    """The folder of a data set's pictures, which are found by image id; `folder` is None without pictures."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def find(self, image_id: str) -> Path | None:
        """Return the file of an image, whose id may lack the file's suffix; None if there is no such file.

        Letters with accents may be written in another of Unicode's forms.
        """
        if self.folder is None:
            return None
        for form in dict.fromkeys((image_id, composed(image_id), unicodedata.normalize("NFD", image_id))):
            for ending in ENDINGS:
                path = self.folder / f"{form}{ending}"
                if path.is_file():
                    return path
        return None

    def thumbnail(self, image_id: str, side: int = THUMBNAIL) -> Image.Image:
        """Return a square thumbnail, or a card with the id if no picture can be opened."""
        path = self.find(image_id)
        if path is not None:
            with contextlib.suppress(UnreadableError):
                return ImageOps.pad(open_upright(path), (side, side), color=BACKGROUND)
        card = Image.new("RGB", (side, side), "#e8ebef")
        draw = ImageDraw.Draw(card)
        for line, start in enumerate(range(0, min(len(image_id), 110), 22)):
            write(draw, (8, side // 2 - 12 + 15 * line), image_id[start : start + 22], 12, FAINT)
        return card

    def data_uri(self, image_id: str, side: int = THUMBNAIL) -> str:
        """Return a thumbnail as a `data:` address, which embeds it into a page."""
        return image_uri(self.thumbnail(image_id, side))


def image_uri(picture: Image.Image, kind: str = "jpeg") -> str:
    """Return a picture as a `data:` address, which embeds it into a page; `kind` is "jpeg" or "png"."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=88)  # PNG is lossless and ignores the quality
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class ContactSheetTile:
    """One picture of a contact sheet: `right` marks it as a true answer."""

    image_id: str
    label: str
    right: bool = False


def contact_sheet(
    title: str,
    tiles: Sequence[ContactSheetTile],
    pictures: PictureFolder,
    columns: int = 5,
    query: str | None = None,
) -> Image.Image:
    """Return a sheet with the tiles in rows under a title; true answers are framed.

    If the image `query` has a picture, the sheet shows that picture, framed, to the left of the tiles.
    """
    columns = max(1, min(columns, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    cell = THUMBNAIL + GAP
    shows_query = query is not None and pictures.find(query) is not None
    indent = GAP + shows_query * (cell + 2 * GAP)
    width = max(indent + columns * cell, 420)
    sheet = Image.new("RGB", (width, HEADER_HEIGHT + rows * (cell + CAPTION_HEIGHT)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    write(draw, (GAP, GAP), fitted(title, width - 2 * GAP, 17), 17, INK)
    if shows_query:
        _draw_tile(sheet, pictures.thumbnail(query), (GAP, HEADER_HEIGHT), "query", INK, framed=True)
    for number, tile in enumerate(tiles):
        corner = indent + number % columns * cell, HEADER_HEIGHT + number // columns * (cell + CAPTION_HEIGHT)
        label, ink = f"{number + 1}. {tile.label}", RIGHT if tile.right else FAINT
        _draw_tile(sheet, pictures.thumbnail(tile.image_id), corner, label, ink, framed=tile.right)
    return sheet


def _draw_tile(
    sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], label: str, ink: str, framed: bool
) -> None:
    """Draw a thumbnail with its upper left corner at `corner`, and a label below it.

    `ink` is the colour of the label and of the thick frame that `framed` asks for.
    """
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    sheet.paste(picture, corner)
    outline, line = (ink, 4) if framed else (LINE, 1)
    draw.rectangle((left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1), outline=outline, width=line)
    write(draw, (left, top + THUMBNAIL + 5), fitted(label, THUMBNAIL, 12), 12, ink)
