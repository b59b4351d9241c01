"""Marks on a picture: frames with labels, lines, and a heat map with its colour bar."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from serving.reports.lettering import BACKGROUND, FAINT, length, write

FOR, AGAINST = (178, 24, 43), (33, 102, 172)  # a red and a blue that the colour-blind tell apart
HEAT_OPACITY = 0.8  # where the heat is strongest
BAR_WIDTH, BAR_MARGIN = 14, 66  # pixels: width of a colour bar, without and with its numbers

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class BoxedPicture:
    """A picture (RGB) with the boxes [R,4] of its regions (x1, y1, x2, y2 in its pixels) and their labels."""

    picture: Image.Image
    boxes: np.ndarray
    labels: Sequence[str]

    def scaled(self, side: int) -> "BoxedPicture":
        """Return the picture with its boxes, scaled so that its longer side has `side` pixels."""
        factor = side / max(self.picture.size)
        size = tuple(max(1, round(length * factor)) for length in self.picture.size)
        picture = self.picture.resize(size, Image.Resampling.LANCZOS)
        return BoxedPicture(picture, np.asarray(self.boxes, np.float64) * factor, self.labels)

    def pixels(self, region: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a region's box inside the picture, at least 1 x 1 pixel."""
        width, height = self.picture.size
        x1, y1, x2, y2 = np.asarray(self.boxes[region]).round().astype(int).tolist()
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        return left, top, min(max(x2, left + 1), width), min(max(y2, top + 1), height)

    def centre(self, region: int) -> tuple[int, int]:
        """Return x and y of the centre of a region's box."""
        left, top, right, bottom = self.pixels(region)
        return (left + right) // 2, (top + bottom) // 2


def framed(view: BoxedPicture, region: int, colour: Colour, strength: float) -> BoxedPicture:
    """Return the view with a frame inside a region's box, wider and more opaque with `strength` (0 to 1)."""
    left, top, right, bottom = view.pixels(region)
    width = max(1, min(round(2 + 5 * strength), (right - left) // 3, (bottom - top) // 3))
    opacity = np.zeros(view.picture.size[::-1], np.uint8)
    opacity[top:bottom, left:right] = round(110 + 145 * strength)
    opacity[top + width : bottom - width, left + width : right - width] = 0
    paint = Image.new("RGB", view.picture.size, colour)
    picture = Image.composite(paint, view.picture, Image.fromarray(opacity))
    return BoxedPicture(picture, view.boxes, view.labels)


def linked(
    view: BoxedPicture, start: int, ends: Sequence[int], strengths: Sequence[float], colour: Colour
) -> BoxedPicture:
    """Return the view with a line from region `start` to each region of `ends`.

    A line is wider and more opaque with its strength (0 to 1).
    """
    # Drawn at twice the size and reduced, the lines are anti-aliased.
    large = view.picture.resize((2 * view.picture.width, 2 * view.picture.height))
    overlay = Image.new("RGBA", large.size)
    draw = ImageDraw.Draw(overlay)
    from_x, from_y = view.centre(start)
    for end, strength in zip(ends, strengths, strict=True):
        x, y = view.centre(end)
        fill = (*colour, round(110 + 145 * strength))
        draw.line((2 * from_x, 2 * from_y, 2 * x, 2 * y), fill=fill, width=round(3 + 13 * strength))
        draw.ellipse((2 * x - 11, 2 * y - 11, 2 * x + 11, 2 * y + 11), fill=fill)
    picture = Image.alpha_composite(large.convert("RGBA"), overlay).convert("RGB")
    return BoxedPicture(picture.resize(view.picture.size, Image.Resampling.LANCZOS), view.boxes, view.labels)


def labelled(
    view: BoxedPicture, regions: Sequence[int], colours: Sequence[Colour], size: int = 13
) -> Image.Image:
    """Return the picture with a label at a corner of each region's box, clear of other labels if possible."""
    picture = view.picture.copy()
    draw = ImageDraw.Draw(picture)
    taken: list[tuple[int, int, int, int]] = []
    for region, colour in zip(regions, colours, strict=True):
        width, height = round(length(view.labels[region], size)) + 8, size + 5
        places = [
            (x, y, x + width, y + height)
            for x, y in _places(view.pixels(region), width, height, picture.size)
        ]
        place = next((p for p in places if not any(_overlap(p, other) for other in taken)), places[0])
        taken.append(place)
        draw.rectangle(place, fill=colour)
        middle = (place[0] + place[2]) // 2, (place[1] + place[3]) // 2
        write(draw, middle, view.labels[region], size, BACKGROUND, anchor="mm")
    return picture


def _places(
    pixels: tuple[int, int, int, int], width: int, height: int, within: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the possible upper left corners of a label, best first.

    They are the corners of the box, places above and below it (these first if the box is small), and places
    further down.
    """
    left, top, right, bottom = pixels
    corners = [(left, top), (right - width, top), (left, bottom - height), (right - width, bottom - height)]
    outside = [(left, top - height - 1), (left, bottom + 1)]
    small = right - left < width or bottom - top < 2 * height
    below = [(left, y) for y in range(bottom + height + 2, within[1], height + 1)]
    fit = within[0] - width - 1, within[1] - height - 1
    places = outside + corners + below if small else corners + outside + below
    return [(max(0, min(x, fit[0])), max(0, min(y, fit[1]))) for x, y in places]


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def heat_of(view: BoxedPicture, values: np.ndarray) -> np.ndarray:
    """Return float64 [H,W]: at each pixel, the sum of the `values` [R] of the regions that cover it."""
    heat = np.zeros(view.picture.size[::-1])
    for region, value in enumerate(values):
        left, top, right, bottom = view.pixels(region)
        heat[top:bottom, left:right] += value
    return heat


def heated(view: BoxedPicture, heat: np.ndarray, limit: float) -> BoxedPicture:
    """Return the view in grey, under red where `heat` [H,W] is positive and under blue where it is negative.

    The colour is strongest where the absolute heat reaches `limit`.
    """
    grey = np.asarray(ImageOps.grayscale(view.picture), np.float64)[..., None] * 0.6 + 255 * 0.4
    opacity = HEAT_OPACITY * (np.abs(heat) / max(limit, 1e-12))[..., None].clip(0, 1)
    mixed = grey * (1 - opacity) + np.where(heat[..., None] > 0, FOR, AGAINST) * opacity
    return BoxedPicture(Image.fromarray(mixed.round().astype(np.uint8)), view.boxes, view.labels)


def diverging(strength: np.ndarray | float) -> np.ndarray:
    """Return colours uint8 [...,3] for strengths [...] from -1 (blue) through 0 (white) to 1 (red)."""
    strength = np.asarray(strength, np.float64)[..., None].clip(-1, 1)
    return (255 + (np.where(strength > 0, FOR, AGAINST) - 255) * np.abs(strength)).round().astype(np.uint8)


def sign_colour(value: float) -> Colour:
    """Return red for a positive value, which speaks for the sentence, and blue for any other."""
    return FOR if value > 0 else AGAINST


def beside_bar(picture: Image.Image, limit: float, top: int = 0) -> Image.Image:
    """Return the picture with a colour bar from -`limit` to `limit` on its right that starts at row `top`."""
    height = max(60, min(picture.height - top, 240))
    sheet = Image.new("RGB", (picture.width + BAR_MARGIN, max(picture.height, top + height)), BACKGROUND)
    sheet.paste(picture, (0, 0))
    bar = Image.fromarray(diverging(np.linspace(1, -1, height)[:, None].repeat(BAR_WIDTH, axis=1)))
    x = picture.width + 8
    sheet.paste(bar, (x, top))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, top, x + BAR_WIDTH - 1, top + height - 1), outline=FAINT)
    for value, y in ((limit, top + 6), (0.0, top + height // 2), (-limit, top + height - 7)):
        text = signed(value) if value else "0"
        write(draw, (x + BAR_WIDTH + 4, y), text, 11, FAINT, anchor="lm")
    return sheet


def signed(value: float) -> str:
    """Return a number with its sign and three decimals, or, below 0.001, one digit and a power of ten."""
    return f"{value:+.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:+.0e}"
