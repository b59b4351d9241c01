"""Pictures of a data set, as files and as thumbnails, and the contact sheet that shows a search's hits."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from config.errors import UserError

ENDINGS = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG")
THUMBNAIL = 160  # pixels a side
GAP = 12
CAPTION_HEIGHT = 20
HEADER_HEIGHT = 40
BACKGROUND, INK, FAINT, RIGHT = "#ffffff", "#1c2430", "#68707c", "#2c9c5a"


def image_folder(data_dir: str, image_dir: str) -> Path | None:
    """Return the folder of a data set's pictures, `image_dir` inside `data_dir`; None without one.

    Raises UserError where there is no such folder.
    """
    folder = Path(data_dir) / image_dir if image_dir else None
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"DATASET.IMAGE_DIR: {folder} is not a folder; set it to that of the pictures, or to nothing"
        )
    return folder


class PictureFolder:
    """Find the pictures of image ids; a data set may come without any."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def find(self, image_id: str) -> Path | None:
        """Return the file of an image, with or without an ending in its id; None when there is none."""
        if self.folder is None:
            return None
        for ending in ENDINGS:
            path = self.folder / f"{image_id}{ending}"
            if path.is_file():
                return path
        return None

    def thumbnail(self, image_id: str, side: int = THUMBNAIL) -> Image.Image:
        """Return a square thumbnail, or a card with the id where no picture can be opened."""
        path = self.find(image_id)
        if path is not None:
            try:
                with Image.open(path) as picture:
                    return ImageOps.pad(
                        ImageOps.exif_transpose(picture).convert("RGB"), (side, side), color=BACKGROUND
                    )
            except (OSError, Image.DecompressionBombError):
                pass
        card = Image.new("RGB", (side, side), "#e8ebef")
        ImageDraw.Draw(card).multiline_text(
            (8, side // 2 - 12), _wrapped(image_id, 22), fill=FAINT, font=_font(12)
        )
        return card

    def data_uri(self, image_id: str, side: int = THUMBNAIL) -> str:
        """Return a thumbnail as a `data:` address, so that a page carries its pictures."""
        buffer = io.BytesIO()
        self.thumbnail(image_id, side).save(buffer, "JPEG", quality=88)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet: `right` marks it as a true answer."""

    image_id: str
    label: str
    right: bool = False


def contact_sheet(
    title: str, tiles: Sequence[Tile], pictures: PictureFolder, columns: int = 5
) -> Image.Image:
    """Draw tiles in rows under a title; true answers are framed."""
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    cell = THUMBNAIL + GAP
    width = max(columns * cell + GAP, 420)
    sheet = Image.new("RGB", (width, HEADER_HEIGHT + rows * (cell + CAPTION_HEIGHT)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _fitted(title, draw, width - 2 * GAP, _font(17)), fill=INK, font=_font(17))
    for number, tile in enumerate(tiles):
        left = GAP + number % columns * cell
        top = HEADER_HEIGHT + number // columns * (cell + CAPTION_HEIGHT)
        sheet.paste(pictures.thumbnail(tile.image_id), (left, top))
        frame, line = (RIGHT, 4) if tile.right else ("#d5dae0", 1)
        draw.rectangle((left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1), outline=frame, width=line)
        label = _fitted(f"{number + 1}. {tile.label}", draw, THUMBNAIL, _font(12))
        draw.text((left, top + THUMBNAIL + 5), label, fill=RIGHT if tile.right else FAINT, font=_font(12))
    return sheet


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitted(text: str, draw: ImageDraw.ImageDraw, width: int, font: ImageFont.ImageFont) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."


def _wrapped(text: str, width: int) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))
