"""The model families, and what is true of each: what kind of model it is, and what it sees and reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The facts of one family.

    `kind`: "dual" encodes images and sentences apart and compares two embeddings; "cross" reads an image and
    a sentence together and scores the pair; "image" encodes pictures alone and compares them by class.
    `text`: a sentence becomes "words" (`datasets.words.vocabulary`) or "pieces"
    (`datasets.words.wordpiece`); without text "". `sees_regions`: every region of an image, else their mean.
    `takes_pictures`: MODEL.CNN may read pictures in place of features. `has_graph`: graph layers relate the
    regions of an image, so that the embedding can tell what is left of what.
    """

    kind: str
    text: str
    sees_regions: bool = False
    takes_pictures: bool = False
    has_graph: bool = False


FAMILIES = {
    "vse": Family("dual", "words", takes_pictures=True),
    "vsepp": Family("dual", "words", takes_pictures=True),
    "vsrn": Family("dual", "words", sees_regions=True, has_graph=True),
    "oscar": Family("cross", "pieces", sees_regions=True),
    "cnn": Family("image", "", takes_pictures=True),
}


@dataclass(frozen=True)
class Loss:
    """The kind of model that a loss trains, and what it is, in words for LOSS.NAME."""

    kind: str
    meaning: str


LOSSES = {
    "hinge": Loss("dual", "hinge ranking loss (VSE, VSE++), summed over the batch"),
    "contrastive": Loss("dual", "symmetric InfoNCE with a learned temperature, averaged over the batch"),
    "softmax": Loss("image", "a classifier, with LABEL_SMOOTHING"),
    "triplet": Loss("image", "batches of anchor, positive, negative"),
    "batch_hard": Loss("image", "the farthest positive and the nearest negative of each"),
    "semi_hard": Loss("image", "the nearest negative beyond each positive"),
    "quadruplet": Loss("image", "all quadruplets of two margins"),
    "adaptive_quadruplet": Loss("image", "all quadruplets, with margins from the batch"),
    "margin_sample_mining": Loss(
        "image",
        "the farthest positive and the nearest negative of the batch, which PaddlePaddle calls quadruplet",
    ),
    "match_cross_entropy": Loss("cross", "softmax over no match and match"),
    "match_binary": Loss("cross", "a sigmoid for each of no match and match"),
    "match_regression": Loss("cross", "squared distance of one value from 0 or 1"),
    "match_choice": Loss("cross", "softmax over a right pair and its wrong ones (NEGATIVES.COUNT)"),
}


def names_of(kind: str) -> tuple[str, ...]:
    """Return the families of one kind."""
    return tuple(name for name, family in FAMILIES.items() if family.kind == kind)


def losses_of(kind: str) -> tuple[str, ...]:
    """Return the losses that train models of one kind."""
    return tuple(name for name, loss in LOSSES.items() if loss.kind == kind)


def describe_losses() -> str:
    """Return what each loss is, by the kind of model that it trains."""
    of = {
        "dual": "of embeddings",
        "image": "of pictures and their classes (cnn)",
        "cross": "of pairs (oscar)",
    }
    return "; ".join(
        f"{what}: " + ", ".join(f"{name}: {LOSSES[name].meaning}" for name in losses_of(kind))
        for kind, what in of.items()
    )
