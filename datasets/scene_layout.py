"""What a generated scene is made of: its objects, their relations, and the split that it belongs to."""

import zlib
from dataclasses import dataclass
from itertools import combinations
from math import hypot
from random import Random

SPLITS = ("train", "dev", "test")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "checkered")
TINTS = ("grey", "beige", "pink", "mint")
# Half the side of an object, as a fraction of the picture's side.
SIZES = {"small": (0.085, 0.1), "medium": (0.135, 0.155), "large": (0.205, 0.235)}
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

_KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_BACKGROUNDS = tuple((pattern, tint) for pattern in PATTERNS for tint in TINTS)
_ALONE = 8  # every eighth picture holds one object
_SIZE_CHOICES = {
    1: (("small",), ("medium",), ("large",)),
    2: (("large", "small"), ("large", "medium"), ("medium", "small")),
    3: (("large", "small", "small"), ("large", "medium", "small"), ("medium", "small", "small")),
}
_MARGIN = 0.03  # between two objects, and between an object and the border


@dataclass(frozen=True)
class SceneObject:
    """One object; `x`, `y` (its centre, y downwards) and `radius` are fractions of the picture's side."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float  # degrees


@dataclass(frozen=True)
class Scene:
    """A picture's content: one to three objects, the first larger than any other, and a background."""

    objects: tuple[SceneObject, ...]
    pattern: str
    tint: str

    @property
    def label(self) -> str:
        """The class of the picture: colour and shape of its largest object."""
        return f"{self.objects[0].colour} {self.objects[0].shape}"


def split_of(kinds: list[tuple[str, str]]) -> str:
    """Return the split that a set of (colour, shape) objects belongs to, whatever the seed.

    It depends on which colours and which shapes there are, not on which colour goes with which shape:
    a set of objects and the same set with its colours exchanged fall into the same split, so that neither
    sentence of a swapped pair describes anything seen in training. 8 of 10 sets are train.
    """
    colours, shapes = (" ".join(sorted(values)) for values in zip(*kinds, strict=True))
    return {0: "dev", 1: "test"}.get(zlib.crc32(f"{colours}|{shapes}".encode()) % 10, "train")


def relation(first: SceneObject, second: SceneObject) -> str | None:
    """Return where `first` is, seen from `second`: left, right, above, below, or None where it is unclear.

    It is clear where the objects' extents along that axis are apart, and their offset across it is at
    most 0.6 of the offset along it.
    """
    dx, dy = second.x - first.x, second.y - first.y
    apart = first.radius + second.radius
    if abs(dx) >= apart and abs(dy) <= 0.6 * abs(dx):
        return "left" if dx > 0 else "right"
    if abs(dy) >= apart and abs(dx) <= 0.6 * abs(dy):
        return "above" if dy > 0 else "below"
    return None


def sample_scene(split: str, index: int, seed: int) -> Scene:
    """Return scene number `index` of a split: the same for the same arguments, whatever else is made.

    Kinds of the largest object and backgrounds are dealt like cards, so that they are balanced.
    """
    rng = Random(f"scene {seed} {split} {index}")
    if index % _ALONE == _ALONE - 1:  # few kinds alone belong to dev and test: draw from those
        kinds = [rng.choice([kind for kind in _KINDS if split_of([kind]) == split])]
    else:
        largest = _deal(_KINDS, f"{seed} {split}", index - index // _ALONE)
        kinds = _kinds_around(largest, rng.choice((2, 2, 3)), split, rng)
    sizes = rng.choice(_SIZE_CHOICES[len(kinds)])
    radii = [rng.uniform(*SIZES[size]) for size in sizes]
    while True:
        objects = tuple(
            SceneObject(
                colour, shape, size, *_position(radius, rng), radius, round(rng.uniform(-15.0, 15.0), 2)
            )
            for (colour, shape), size, radius in zip(kinds, sizes, radii, strict=True)
        )
        if _is_clear(objects):
            pattern, tint = _deal(_BACKGROUNDS, f"{seed} {split}", index)
            return Scene(objects, pattern, tint)


def _deal(cards: tuple[tuple[str, str], ...], name: str, index: int) -> tuple[str, str]:
    pack, position = divmod(index, len(cards))
    return Random(f"deal {name} {pack}").sample(cards, len(cards))[position]


def _kinds_around(first: tuple[str, str], count: int, split: str, rng: Random) -> list[tuple[str, str]]:
    while True:
        kinds = [first, *rng.sample(_KINDS, count - 1)]
        if len(set(kinds)) == count and split_of(kinds) == split:
            return kinds


def _position(radius: float, rng: Random) -> tuple[float, float]:
    low, high = radius + _MARGIN, 1 - radius - _MARGIN
    return rng.uniform(low, high), rng.uniform(low, high)


def _is_clear(objects: tuple[SceneObject, ...]) -> bool:
    """Tell whether no objects touch and, where there are several, two of them stand in a clear relation."""
    pairs = list(combinations(objects, 2))
    apart = all(hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + _MARGIN for a, b in pairs)
    return apart and (not pairs or any(relation(a, b) for a, b in pairs))
