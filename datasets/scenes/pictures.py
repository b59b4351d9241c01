"""Draw scenes: anti-aliased shapes with rim and shadow, on plain or patterned ground, among specks."""

from math import ceil, cos, floor, pi, radians, sin
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from datasets.scenes.layout import Scene, SceneObject

Outline = list[tuple[float, float]]

_RGB = {
    "red": (214, 56, 58),
    "orange": (243, 142, 42),
    "yellow": (248, 210, 66),
    "green": (66, 158, 84),
    "blue": (48, 108, 200),
    "purple": (134, 76, 172),
    "white": (250, 250, 250),
    "black": (42, 42, 48),
}
_GROUND = {  # the ground's colour, and that of its pattern
    "grey": ((208, 212, 218), (178, 184, 194)),
    "beige": ((241, 228, 202), (224, 202, 164)),
    "pink": ((250, 218, 224), (239, 184, 197)),
    "mint": ((213, 240, 225), (168, 216, 191)),
}
_SPECKS = (5, 10)
_FINE = 4  # shapes are drawn this many times larger, then averaged
_HOLE = 0.55  # of a ring, as a fraction of its radius


def _regular(corners: int, *radii: float) -> Outline:
    """Return a regular polygon with a corner at the top; its corners lie at the radii in turn."""
    turns = [2 * pi * corner / corners for corner in range(corners)]
    return [
        (radii[corner % len(radii)] * sin(turn), -radii[corner % len(radii)] * cos(turn))
        for corner, turn in enumerate(turns)
    ]


def _heart() -> Outline:
    turns = [2 * pi * step / 40 for step in range(40)]
    return [
        (16 * sin(t) ** 3 / 17, (-13 * cos(t) + 5 * cos(2 * t) + 2 * cos(3 * t) + cos(4 * t) - 2.5) / 17)
        for t in turns
    ]


_L, _W = 0.9, 0.34  # half an arm's length and width of the cross
# Outlines lie in the unit circle; their areas differ by at most a half, so a larger size is a larger area.
_OUTLINES: dict[str, Outline] = {
    "circle": _regular(48, 0.82),
    "square": [(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)],
    "triangle": _regular(3, 1.0),
    "star": _regular(10, 1.0, 0.5),
    "heart": _heart(),
    "cross": [
        *((-_W, -_L), (_W, -_L), (_W, -_W), (_L, -_W), (_L, _W), (_W, _W)),
        *((_W, _L), (-_W, _L), (-_W, _W), (-_L, _W), (-_L, -_W), (-_W, -_W)),
    ],
    "ring": _regular(48, 0.86),
    "diamond": [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
}


def object_outline(item: SceneObject, image_size: int) -> Outline:
    """Return the corners (x, y) of an object's outline in pixels."""
    cosine, sine = cos(radians(item.angle)), sin(radians(item.angle))
    return [
        (
            (item.x + item.radius * (x * cosine - y * sine)) * image_size,
            (item.y + item.radius * (x * sine + y * cosine)) * image_size,
        )
        for x, y in _OUTLINES[item.shape]
    ]


def object_box(item: SceneObject, image_size: int) -> tuple[float, float, float, float]:
    """Return the tight box x1, y1, x2, y2 of an object in pixels."""
    xs, ys = zip(*object_outline(item, image_size), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def draw_scene(scene: Scene, image_size: int, rng: Random) -> Image.Image:
    """Return a picture of a scene: RGB, `image_size` x `image_size`.

    `rng` chooses what no caption mentions: the pattern's phase, the specks, the exact shade of a colour.
    """
    canvas = Image.fromarray(_ground(scene.pattern, scene.tint, image_size, rng))
    for _ in range(rng.randint(*_SPECKS)):
        _paint_speck(canvas, rng)
    for item in scene.objects:
        _paint_object(canvas, item, rng)
    return canvas


def _ground(pattern: str, tint: str, image_size: int, rng: Random) -> np.ndarray:
    """Return the ground as uint8 [H,W,3]."""
    base, mark = (np.array(colour, np.float64) for colour in _GROUND[tint])
    if pattern == "plain":
        return np.broadcast_to(base, (image_size, image_size, 3)).astype(np.uint8)
    axis = (np.arange(image_size) + 0.5) / image_size
    turn, period = rng.uniform(-0.2, 0.2), rng.uniform(0.15, 0.19)
    if pattern == "striped":
        turn += rng.choice((0.0, 0.25, 0.5, 0.75)) * pi
    # Coordinates along and across the pattern, in periods. [H,W]
    u = (axis[None, :] * cos(turn) + axis[:, None] * sin(turn)) / period + rng.random()
    v = (axis[:, None] * cos(turn) - axis[None, :] * sin(turn)) / period + rng.random()
    sharp = image_size * period  # pixels in a period: edges are one pixel wide
    if pattern == "striped":
        strength = 0.5 + np.sin(2 * pi * u) * sharp / (2 * pi)
    elif pattern == "checkered":
        strength = 0.5 + np.sin(pi * u) * np.sin(pi * v) * sharp / pi
    else:
        strength = 0.5 + (0.27 - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * sharp
    return (base + np.clip(strength, 0, 1)[..., None] * (mark - base) + 0.5).astype(np.uint8)  # [H,W,3]


def _paint_speck(canvas: Image.Image, rng: Random) -> None:
    radius = rng.uniform(0.007, 0.014) * canvas.width
    x, y = (rng.uniform(0.02, 0.98) * canvas.width for _ in range(2))
    shade = _shade(rng.choice(list(_RGB.values())), rng)
    _paint(canvas, [(x + radius * a, y + radius * b) for a, b in _regular(12, 1.0)], shade, opacity=0.75)


def _paint_object(canvas: Image.Image, item: SceneObject, rng: Random) -> None:
    outline = object_outline(item, canvas.width)
    centre = item.x * canvas.width, item.y * canvas.width
    hole = _scaled(outline, centre, _HOLE) if item.shape == "ring" else None
    shade = _shade(_RGB[item.colour], rng)
    # A light object gets a clearly darker rim, a black one a lighter rim.
    rim = tuple(int(value * 0.62) + (38 if item.colour == "black" else 0) for value in shade)
    drop = 0.012 * canvas.width
    _paint(canvas, outline, (40, 40, 60), hole, opacity=0.22, offset=drop)
    _paint(canvas, outline, rim, hole)
    inner = _scaled(outline, centre, 0.88)
    _paint(canvas, inner, shade, _scaled(outline, centre, _HOLE + 0.1) if hole else None)


def _shade(colour: tuple[int, int, int], rng: Random) -> tuple[int, ...]:
    light = rng.uniform(-12, 12)
    return tuple(min(255, max(0, round(value + light + rng.uniform(-6, 6)))) for value in colour)


def _scaled(outline: Outline, centre: tuple[float, float], factor: float) -> Outline:
    return [(centre[0] + (x - centre[0]) * factor, centre[1] + (y - centre[1]) * factor) for x, y in outline]


def _paint(
    canvas: Image.Image,
    outline: Outline,
    colour: tuple[int, ...],
    hole: Outline | None = None,
    opacity: float = 1.0,
    offset: float = 0.0,
) -> None:
    """Fill a polygon except its hole, anti-aliased; `offset` moves it right and down, in pixels."""
    left, top = (floor(min(values) + offset) - 1 for values in zip(*outline, strict=True))
    right, bottom = (ceil(max(values) + offset) + 1 for values in zip(*outline, strict=True))
    mask = Image.new("L", ((right - left) * _FINE, (bottom - top) * _FINE))
    pen = ImageDraw.Draw(mask)
    for polygon, ink in ((outline, round(255 * opacity)), (hole, 0)):
        if polygon:
            # Pillow's coordinates name pixel centres, hence the half.
            pen.polygon(
                [((x + offset - left) * _FINE - 0.5, (y + offset - top) * _FINE - 0.5) for x, y in polygon],
                fill=ink,
            )
    canvas.paste(colour, (left, top), mask.reduce(_FINE))
