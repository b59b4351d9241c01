"""The model families and losses, and the facts about each: its kind of model, and what it sees and reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The facts about one model family.

    `kind` is "dual" (encodes images and sentences separately and compares two embeddings), "cross" (reads an
    image and a sentence together and scores the pair) or "image" (encodes pictures alone and compares them by
    class).
    `text` is "words" (`datasets.words.vocabulary`), "pieces" (`datasets.words.wordpiece`), or "" for a family
    without text.
    `sees_regions` is true where the model reads every region of an image, false where it reads their mean.
    `takes_pictures` is true where MODEL.CNN may read pictures in place of features.
    `has_graph` is true where graph layers relate the regions of an image, so that the embedding can represent
    what is left of what.
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
    """The kind of model that a loss trains, and the description of the loss for LOSS.NAME."""

    kind: str
    meaning: str


LOSSES = {
    "hinge": Loss("dual", "hinge ranking loss (VSE, VSE++), summed over the batch"),
    "contrastive": Loss("dual", "symmetric InfoNCE with a learned temperature, averaged over the batch"),
    "softmax": Loss("image", "cross entropy of a classifier, with LABEL_SMOOTHING"),
    "triplet": Loss("image", "triplet loss of batches of anchor, positive, negative"),
    "batch_hard": Loss(
        "image", "triplet loss with the farthest positive and the nearest negative of each image"
    ),
    "semi_hard": Loss("image", "triplet loss with the nearest negative beyond each positive"),
    "quadruplet": Loss("image", "all quadruplets of the batch, with MARGIN and SECOND_MARGIN"),
    "adaptive_quadruplet": Loss(
        "image", "all quadruplets of the batch, with margins computed from the batch"
    ),
    "margin_sample_mining": Loss(
        "image",
        "the farthest positive and the nearest negative of the batch (PaddlePaddle's quadruplet)",
    ),
    "match_cross_entropy": Loss("cross", "softmax over no match and match"),
    "match_binary": Loss("cross", "a sigmoid for each of no match and match"),
    "match_regression": Loss("cross", "squared distance of one value from 0 or 1"),
    "match_choice": Loss("cross", "softmax over a positive pair and its negatives (NEGATIVES.COUNT)"),
}


def names_of(kind: str) -> tuple[str, ...]:
    """Return the names of the families of one kind."""
    return tuple(name for name, family in FAMILIES.items() if family.kind == kind)


def losses_of(kind: str) -> tuple[str, ...]:
    """Return the names of the losses that train models of one kind."""
    return tuple(name for name, loss in LOSSES.items() if loss.kind == kind)


def describe_losses() -> str:
    """Return the meaning of LOSS.NAME: a description of each loss, by the kind of model that it trains."""
    of = {
        "dual": "of embeddings",
        "image": "of pictures and their classes (cnn)",
        "cross": "of pairs (oscar)",
    }
    return "; ".join(
        f"{what}: " + ", ".join(f"{name}: {LOSSES[name].meaning}" for name in losses_of(kind))
        for kind, what in of.items()
    )
