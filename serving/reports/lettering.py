"""The colours and the font of all drawings."""

from PIL import ImageFont

BACKGROUND, INK, FAINT, LINE, RIGHT = "#ffffff", "#1c2430", "#68707c", "#d5dae0", "#2c9c5a"


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return the font of all labels at a `size` in pixels."""
    return ImageFont.load_default(size)


def fitted(text: str, width: int, size: int) -> str:
    """Return `text` at a font `size`, shortened with "..." if it is wider than `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
