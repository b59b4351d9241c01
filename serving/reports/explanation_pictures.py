"""Drawings of an explanation: regions that the graph listened to, regions that answer a word, the matrix."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from serving.reports.drawing import (
    BoxedPicture,
    beside_bar,
    diverging,
    framed,
    heat_of,
    heated,
    labelled,
    linked,
    sign_colour,
    signed,
)
from serving.reports.lettering import BACKGROUND, FAINT, INK, fitted, length, write
from serving.reports.pictures import GAP

SIDE, TILE = 470, 180  # longer side of a single picture and of one of many, in pixels
COLUMNS = 5  # pictures in a row
CELL, ROW, CROP = 48, 38, 34  # of the matrix: width and height of a cell, side of a row's picture; pixels
MATRIX_ROWS = 36
LISTENED, TAKER = (232, 89, 12), (28, 126, 214)  # orange, blue


def draw_listened(view: BoxedPicture, shares: np.ndarray, top: int) -> Image.Image:
    """Return the picture with frames around the `top` regions of largest `shares` [R].

    A frame is wider and more opaque with its share.
    """
    view = view.scaled(SIDE)
    regions = strongest(shares, top)
    for region in regions[::-1]:  # the frame of the largest share is drawn last, on top
        view = framed(view, region, LISTENED, shares[region] / max(shares.max(), 1e-12))
    return labelled(view, regions, [LISTENED] * len(regions))


def draw_links(view: BoxedPicture, taker: int, shares: np.ndarray, top: int) -> Image.Image:
    """Return the picture with lines from region `taker` to the `top` others of largest `shares` [R]."""
    view = view.scaled(SIDE)
    sources = [region for region in strongest(shares, len(shares)) if region != taker][:top]
    strengths = [shares[region] / max(shares[sources].max(), 1e-12) for region in sources]
    for region in sources[::-1]:
        view = framed(view, region, LISTENED, 0.0)
    view = framed(view, taker, TAKER, 0.6)
    view = linked(view, taker, sources[::-1], strengths[::-1], LISTENED)
    return labelled(view, [taker, *sources], [TAKER] + [LISTENED] * len(sources))


def draw_sentence(view: BoxedPicture, relevance: np.ndarray, top: int) -> Image.Image:
    """Return the picture under a heat map of the regions' `relevance` [R].

    The `top` regions of largest absolute relevance are framed.
    """
    view = view.scaled(SIDE)
    heat = heat_of(view, relevance)
    view = heated(view, heat, np.abs(heat).max())
    regions = strongest(np.abs(relevance), top)
    colours = [sign_colour(relevance[region]) for region in regions]
    for region, colour in zip(regions[::-1], colours[::-1], strict=True):
        view = framed(view, region, colour, 0.2)
    return beside_bar(labelled(view, regions, colours), np.abs(heat).max())


def draw_words(view: BoxedPicture, words: Sequence[str], pair: np.ndarray) -> Image.Image:
    """Return a sheet with a heat map for each word, its column of `pair` [R,W], all on one scale.

    A frame shows the region of the column's largest value.
    """
    view = view.scaled(TILE)
    heats = [heat_of(view, column) for column in pair.T]
    limit = max(np.abs(heat).max() for heat in heats)
    columns = min(COLUMNS, len(words))
    width, height = view.picture.width + GAP, view.picture.height + 38
    sheet = Image.new("RGB", (columns * width, -(-len(words) // columns) * height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (word, heat) in enumerate(zip(words, heats, strict=True)):
        left, top = number % columns * width, number // columns * height
        best = int(pair[:, number].argmax())
        colour = sign_colour(pair[best, number])
        label = fitted(view.labels[best], view.picture.width // 2, 12)
        room = view.picture.width - round(length(label, 12)) - 8
        write(draw, (left, top + 20), fitted(word, room, 15), 15, INK, anchor="ls")
        write(draw, (left + view.picture.width, top + 20), label, 12, colour, anchor="rs")
        sheet.paste(framed(heated(view, heat, limit), best, colour, 0.2).picture, (left, top + 26))
    return beside_bar(sheet, limit, top=26)


def draw_matrix(
    view: BoxedPicture, words: Sequence[str], pair: np.ndarray, region: np.ndarray, word: np.ndarray
) -> Image.Image:
    """Return a drawing of `pair` [R,W] as a matrix: a row for each region, a column for each word.

    Beside each row stands its value of `region` [R], below each column its value of `word` [W]. The rows are
    in descending order of `region`; at most MATRIX_ROWS are kept, those of largest absolute value.
    """
    kept = np.sort(strongest(np.abs(region), MATRIX_ROWS))
    kept = kept[np.argsort(-region[kept], kind="stable")]
    names = [_slanted(fitted(name, 120, 14)) for name in words]
    head = max(name.height for name in names) + 10
    label = max(round(length(view.labels[row], 14)) for row in kept) + 14
    left = CROP + 8 + label + 58
    ends = [column * CELL + CELL // 2 - 8 + name.width for column, name in enumerate(names)]
    overhang = max(0, *(end - len(names) * CELL for end in ends))
    size = left + len(words) * CELL + overhang + GAP, head + (len(kept) + 1) * ROW
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    limit = np.abs(pair[kept]).max()
    write(draw, (left - 8, head - 6), "sentence", 12, FAINT, anchor="rs")
    for number, row in enumerate(kept):
        top = head + number * ROW
        sheet.paste(_crop(view, row), (0, top + 1))
        write(draw, (CROP + 8, top + ROW // 2), view.labels[row], 14, INK, anchor="lm")
        write(draw, (left - 8, top + ROW // 2), signed(region[row]), 12, FAINT, anchor="rm")
        for column, colour in enumerate(diverging(pair[row] / max(limit, 1e-12)).tolist()):
            x = left + column * CELL
            draw.rectangle((x, top, x + CELL - 2, top + ROW - 2), fill=tuple(colour), outline="#e8ebef")
    below = head + len(kept) * ROW + ROW // 2
    write(draw, (left - 8, below), "image", 12, FAINT, anchor="rm")
    for column, (name, value) in enumerate(zip(names, word, strict=True)):
        middle = left + column * CELL + CELL // 2
        sheet.paste(name, (middle - 8, head - 4 - name.height), name)
        write(draw, (middle, below), signed(value), 12, FAINT, anchor="mm")
    return beside_bar(sheet, limit, top=head)


def strongest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` largest `values` [R], largest first; ties keep their order."""
    return np.argsort(-values, kind="stable")[:count]


def _crop(view: BoxedPicture, region: int) -> Image.Image:
    return ImageOps.pad(view.picture.crop(view.pixels(region)), (CROP, CROP), color="#e8ebef")


def _slanted(text: str) -> Image.Image:
    """Return text turned by 45 degrees, which rises to the right, on a transparent ground."""
    flat = Image.new("RGBA", (round(length(text, 14)) + 4, 18))
    write(ImageDraw.Draw(flat), (2, 9), text, 14, INK, anchor="lm")
    return flat.rotate(45, Image.Resampling.BICUBIC, expand=True)
