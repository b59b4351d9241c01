"""Sentences about scenes: five varied captions per picture, and pairs of sentences with the same words."""

from itertools import permutations
from random import Random

from datasets.captions.swapped import SwappedPair
from datasets.scenes.layout import INVERSE, Scene, SceneObject, relation

CAPTIONS_PER_IMAGE = 5

_SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring", "ring", "hoop"),
    "diamond": ("diamond", "diamond", "rhombus"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big", "huge")}
_PATTERN_WORDS = {
    "plain": ("plain", "plain"),
    "striped": ("striped", "stripes"),
    "dotted": ("dotted", "dots"),
    "checkered": ("checkered", "checks"),
}
_RELATION_WORDS = {
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "higher up than"),
    "below": ("below", "under", "beneath"),
}
_SIDE_WORDS = {
    "left": ("on its left", "to its left"),
    "right": ("on its right", "to its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it"),
}
_SIZE_CHANCE = 0.35  # probability that a caption mentions sizes

# These have no comma: it would follow different words after a swap.
_RELATIONAL = (
    "{a} {relation} {b}",
    "{a} {relation} {b} {ground}",
    "there is {a} {relation} {b}",
    "the {a_noun} is {relation} the {b_noun}",
    "the {a_noun} sits {relation} the {b_noun} {ground}",
    "{a} with {b} {side_of_b}",
    "a picture of {a} {relation} {b}",
    "{a_ground} where {a} is {relation} {b}",
)
_PARTIAL = ("{a} with another shape {side_of_b}", "something is {relation} {b} {ground}")
_ONE = (
    "{a} {ground}",
    "a single {a_noun} {ground}",
    "there is only {a} {place}",
    "one {a_noun} {place} {ground}",
    "{a} {place} of the picture",
    "nothing but {a} {ground}",
    "{a} alone {place}",
    "{a_ground} with just {a}",
)
_TWO = (
    "{a} and {b}",
    "{a} and {b} {ground}",
    "two shapes, {a} and {b}",
    "a picture of {b} and {a} {ground}",
    "{a_ground} with {a} and {b}",
    "two objects {ground}, one of them {a}",
)
_THREE = (
    "{a}, {b} and {c}",
    "{a}, {b} and {c} {ground}",
    "three shapes, one of them {a}",
    "three shapes {ground}, among them {a} and {b}",
    "{a_ground} with {a}, {b} and {c}",
    "a picture of {b}, {c} and {a}",
    "{a} {relation} {b}, and {c} too",
)
_COMPARISON = ("{bigger} that is bigger than {smaller}", "{smaller} that is smaller than {bigger}")
_SAME_COLOUR = (
    "two {colour} shapes, a {a_shape} and a {b_shape}",
    "a {a_shape} and a {b_shape}, both {colour}",
)
_SAME_SHAPE = (
    "two {shapes} {ground}, {a_colour} and {b_colour}",
    "two {shapes}, one {a_colour} and one {b_colour}",
)


def captions_of(scene: Scene, rng: Random) -> list[str]:
    """Return `CAPTIONS_PER_IMAGE` different sentences that are true of a scene, in lower case."""
    if len(scene.objects) == 1:
        templates = rng.sample(_ONE, CAPTIONS_PER_IMAGE)
    else:
        templates = _several_templates(scene, rng)
    captions: list[str] = []
    for template in templates:
        sentence = template.format(**_words(scene, rng))
        while sentence in captions:
            sentence = template.format(**_words(scene, rng))
        captions.append(sentence)
    return captions


def swapped_pairs(scene: Scene, image_id: str, rng: Random) -> list[SwappedPair]:
    """Return the swapped captions of a scene that has two objects of clear relation, colours and shapes.

    There is one pair of each kind, unless its second sentence is true as well; other scenes have none. The
    second sentence is the first with the objects' colours, or the objects, exchanged. Both have the same
    words, so a model that ignores the order of words scores them equally.
    """
    candidates = [
        (a, b)
        for a, b in permutations(scene.objects, 2)
        if relation(a, b) and a.colour != b.colour and a.shape != b.shape
    ]
    if not candidates:
        return []
    a, b = rng.choice(candidates)
    pairs = []
    for kind in ("colours", "sides"):
        a_words, b_words = _object_words(a, b, rng=rng)
        if kind == "colours":
            exchanged = {**a_words, "colour": b.colour}, {**b_words, "colour": a.colour}
        else:
            exchanged = b_words, a_words
        (false_a, false_b), where = exchanged, relation(a, b)
        if _holds(scene, false_a, where, false_b):
            continue
        template, shared = (
            rng.choice(_RELATIONAL),
            {**_relation_words(where, rng), **_ground_words(scene, rng)},
        )
        true_sentence = template.format(**shared, **_noun_phrases(a_words, b_words))
        false_sentence = template.format(**shared, **_noun_phrases(false_a, false_b))
        pairs.append(SwappedPair(image_id, kind, true_sentence, false_sentence))
    return pairs


def _several_templates(scene: Scene, rng: Random) -> list[str]:
    """Return the templates of three sentences about a relation and of two others."""
    others = [*(_TWO if len(scene.objects) == 2 else _THREE), rng.choice(_COMPARISON), rng.choice(_PARTIAL)]
    if len(scene.objects) == 2:
        first, second = scene.objects
        if first.colour == second.colour:
            others += _SAME_COLOUR
        if first.shape == second.shape:
            others += _SAME_SHAPE
    return rng.sample(_RELATIONAL, 3) + rng.sample(others, CAPTIONS_PER_IMAGE - 3)


def _words(scene: Scene, rng: Random) -> dict[str, str]:
    """Return every word or phrase that a template may use."""
    words = _ground_words(scene, rng)
    if len(scene.objects) == 1:
        (only,) = scene.objects
        (described,) = _object_words(only, rng=rng)
        return {
            **words,
            "a": _with_article(described),
            "a_noun": _noun(described),
            "place": _place(only, rng),
        }
    a, b = rng.choice([pair for pair in permutations(scene.objects, 2) if relation(*pair)])
    a_words, b_words = _object_words(a, b, rng=rng)
    words |= _relation_words(relation(a, b), rng) | _noun_phrases(a_words, b_words)
    words |= {
        "colour": a.colour,
        "shapes": _plural(a_words["shape"]),
        "a_colour": a.colour,
        "b_colour": b.colour,
    }
    words |= {"a_shape": a_words["shape"], "b_shape": b_words["shape"]}
    bigger, smaller = _by_size(scene, rng)
    for name, item in (("bigger", bigger), ("smaller", smaller)):
        words[name] = _with_article(
            {"size": "", "colour": item.colour, "shape": rng.choice(_SHAPE_WORDS[item.shape])}
        )
    if len(scene.objects) == 3:
        (c,) = (item for item in scene.objects if item not in (a, b))
        (c_words,) = _object_words(c, rng=rng)
        words["c"] = _with_article(c_words)
    return words


def _by_size(scene: Scene, rng: Random) -> tuple[SceneObject, SceneObject]:
    return rng.choice([(a, b) for a in scene.objects for b in scene.objects if a.radius > 1.15 * b.radius])


def _object_words(*items: SceneObject, rng: Random) -> list[dict[str, str]]:
    """Return words for objects, with sizes for all of them or for none."""
    sized = rng.random() < _SIZE_CHANCE
    return [
        {
            "size": rng.choice(_SIZE_WORDS[item.size]) if sized else "",
            "colour": item.colour,
            "shape": rng.choice(_SHAPE_WORDS[item.shape]),
        }
        for item in items
    ]


def _noun(words: dict[str, str]) -> str:
    return " ".join(word for word in (words["size"], words["colour"], words["shape"]) if word)


def _with_article(words: dict[str, str]) -> str:
    noun = _noun(words)
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _noun_phrases(a_words: dict[str, str], b_words: dict[str, str]) -> dict[str, str]:
    return {
        "a": _with_article(a_words),
        "b": _with_article(b_words),
        "a_noun": _noun(a_words),
        "b_noun": _noun(b_words),
    }


def _relation_words(where: str, rng: Random) -> dict[str, str]:
    """Return phrases that say that a is `where` of b."""
    return {
        "relation": rng.choice(_RELATION_WORDS[where]),
        "side_of_b": rng.choice(_SIDE_WORDS[INVERSE[where]]),
    }


def _ground_words(scene: Scene, rng: Random) -> dict[str, str]:
    adjective, noun = _PATTERN_WORDS[scene.pattern]
    choices = [f"{adjective} background", f"{scene.tint} background", f"{adjective} {scene.tint} background"]
    ground = rng.choice(choices)
    phrases = [f"on a {ground}", f"against a {ground}"]
    if scene.pattern != "plain":
        phrases += [f"on {noun}", f"on {scene.tint} {noun}"]
    return {"ground": rng.choice(phrases), "a_ground": f"a {ground}"}


def _place(item: SceneObject, rng: Random) -> str:
    """Return a phrase for the ninth of the picture in which the centre of an object lies."""
    column = ("left", "", "right")[min(2, int(item.x * 3))]
    row = ("top", "", "bottom")[min(2, int(item.y * 3))]
    if row and column:
        return f"in the {row} {column} corner"
    if row or column:
        return f"{rng.choice(('at', 'near'))} the {row or column + ' side'}"
    return rng.choice(("in the middle", "in the centre"))


def _plural(noun: str) -> str:
    return noun + ("es" if noun[-1] in "sx" else "s")


def _holds(scene: Scene, a_words: dict[str, str], where: str, b_words: dict[str, str]) -> bool:
    """Return whether some object that fits `a_words` is `where` of some object that fits `b_words`."""
    return any(
        relation(a, b) == where
        for a, b in permutations(scene.objects, 2)
        if a.colour == a_words["colour"]
        and a_words["shape"] in _SHAPE_WORDS[a.shape]
        and b.colour == b_words["colour"]
        and b_words["shape"] in _SHAPE_WORDS[b.shape]
    )
