"""A generated scene: its objects, their relations, and the split that it belongs to."""

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

FAMILY = 4  # consecutive scenes that share their objects' attributes
Kind = tuple[str, str]  # colour and shape

_KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_BACKGROUNDS = tuple((pattern, tint) for pattern in PATTERNS for tint in TINTS)
_ALONE = 8  # every eighth family holds one object
# Salt of the hash in `split_of`: each split gets scenes of a single object, and the README's red circle and
# blue square are in the test split.
_SPLIT_SALT = 76
_SIZE_CHOICES = {
    1: (("small",), ("medium",), ("large",)),
    2: (("large", "small"), ("large", "medium"), ("medium", "small")),
    3: (("large", "small", "small"), ("large", "medium", "small"), ("medium", "small", "small")),
}
_MARGIN = 0.03  # between two objects, and between an object and the border


@dataclass(frozen=True)
class SceneObject:
    """One object.

    `x` and `y` (its centre, y downwards) and `radius` are fractions of the picture's side.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float  # degrees


@dataclass(frozen=True)
class Scene:
    """The content of a picture: one to three objects, the first larger than any other, and a background."""

    objects: tuple[SceneObject, ...]
    pattern: str
    tint: str

    @property
    def label(self) -> str:
        """Return the class of the picture: colour and shape of its largest object."""
        return f"{self.objects[0].colour} {self.objects[0].shape}"


def split_of(kinds: list[Kind]) -> str:
    """Return the split that a set of (colour, shape) objects belongs to, whatever the seed.

    The split depends on which colours and which shapes occur, not on which colour goes with which shape: a
    set of objects and the same set with its colours exchanged fall into the same split, so that neither
    sentence of a swapped pair describes anything seen in training. 8 of 10 sets are in train.
    """
    colours, shapes = (" ".join(sorted(values)) for values in zip(*kinds, strict=True))
    return {0: "dev", 1: "test"}.get(zlib.crc32(f"{_SPLIT_SALT}: {colours}, {shapes}".encode()) % 10, "train")


def relation(first: SceneObject, second: SceneObject) -> str | None:
    """Return where `first` is, seen from `second`: left, right, above, below, or None if that is unclear.

    It is clear if the objects' extents along that axis do not overlap, and their offset across it is at most
    0.6 of the offset along it.
    """
    dx, dy = second.x - first.x, second.y - first.y
    apart = first.radius + second.radius
    if abs(dx) >= apart and abs(dy) <= 0.6 * abs(dx):
        return "left" if dx > 0 else "right"
    if abs(dy) >= apart and abs(dx) <= 0.6 * abs(dy):
        return "above" if dy > 0 else "below"
    return None


def sample_scene(split: str, index: int, seed: int) -> Scene:
    """Return scene number `index` of a split, which depends on nothing but the arguments.

    Each `FAMILY` consecutive scenes share background, colours, shapes and sizes. Half of them have the
    colours of the first two objects exchanged (or the shapes, if the colours are the same), and half of them
    the sides of these objects, so that only which object has which attribute, and where, tells them apart.
    Families of one object differ in its size and place.
    """
    family, member = divmod(index, FAMILY)
    rng = Random(f"family {seed} {split} {family}")
    pattern, tint = _deal(_BACKGROUNDS, f"{seed} {split}", family)
    side, count = rng.choice(tuple(INVERSE)), rng.choice((2, 2, 3))
    if family % _ALONE == _ALONE - 1:  # dev and test have few kinds of single objects: draw from those
        kinds = [rng.choice([kind for kind in _KINDS if split_of([kind]) == split])]
    else:
        largest = _deal(_KINDS, f"{seed} {split}", family - family // _ALONE)
        kinds = _kinds_around(largest, count, split, rng)
    sizes = rng.choice(_SIZE_CHOICES[len(kinds)])
    rng = Random(f"scene {seed} {split} {index}")
    if len(kinds) == 1:
        return Scene(_place_objects(kinds, (rng.choice(tuple(SIZES)),), None, rng), pattern, tint)
    if member & 1:
        kinds = _exchanged(kinds)
    return Scene(_place_objects(kinds, sizes, INVERSE[side] if member & 2 else side, rng), pattern, tint)


def _deal(cards: tuple[tuple[str, str], ...], name: str, index: int) -> tuple[str, str]:
    """Return card number `index` of endless shuffled packs, in which all cards occur equally often."""
    pack, position = divmod(index, len(cards))
    return Random(f"deal {name} {pack}").sample(cards, len(cards))[position]


def _kinds_around(first: Kind, count: int, split: str, rng: Random) -> list[Kind]:
    while True:
        kinds = [first, *rng.sample(_KINDS, count - 1)]
        if split_of(kinds) == split and len(set(kinds)) == len(set(_exchanged(kinds))) == count:
            return kinds


def _exchanged(kinds: list[Kind]) -> list[Kind]:
    """Return kinds with the first two objects' colours exchanged or, if these are equal, their shapes."""
    (colour_a, shape_a), (colour_b, shape_b), *others = kinds
    if colour_a == colour_b:
        return [(colour_a, shape_b), (colour_b, shape_a), *others]
    return [(colour_b, shape_a), (colour_a, shape_b), *others]


def _place_objects(
    kinds: list[Kind], sizes: tuple[str, ...], side: str | None, rng: Random
) -> tuple[SceneObject, ...]:
    """Place objects at random without touching, the first one on `side` of the second."""
    radii = [rng.uniform(*SIZES[size]) for size in sizes]
    while True:
        objects = tuple(
            SceneObject(colour, shape, size, *_position(radius, rng), radius, angle=rng.uniform(-15, 15))
            for (colour, shape), size, radius in zip(kinds, sizes, radii, strict=True)
        )
        apart = all(
            hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + _MARGIN for a, b in combinations(objects, 2)
        )
        if apart and (side is None or relation(*objects[:2]) == side):
            return objects


def _position(radius: float, rng: Random) -> tuple[float, float]:
    low, high = radius + _MARGIN, 1 - radius - _MARGIN
    return rng.uniform(low, high), rng.uniform(low, high)
