"""Ensembles: the weighted mean of several models' similarities, as VSRN's results of two models are made.

Each model encodes the split by itself, with its own vocabulary. Their embeddings then lie side by side, and a
tile of scores is the weighted sum of the models' tiles: no matrix of all scores is ever held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import Encoded

# The search doubles and halves a weight first, then takes roots of 2.
_STEPS = (1.0, 0.5, 0.25, 0.125)
_ROUNDING = 1e-9  # a sum of recalls that differs by less is the same sum


class Ensemble:
    """The embeddings of one split by several models, side by side.

    Captions are one sentence to the ensemble where they are one to every member.
    """

    def __init__(self, members: Sequence[Encoded]):
        ends = np.cumsum([member.image.shape[1] for member in members])
        self._columns = [
            slice(end - member.image.shape[1], end) for end, member in zip(ends, members, strict=True)
        ]
        self._similarities = [member.similarity for member in members]
        self._measure = " and ".join(dict.fromkeys(member.measure for member in members))
        sentences, self._sentence = _distinct(np.stack([member.sentence for member in members], axis=1))
        self._image = np.concatenate([member.image for member in members], axis=1)  # [N, sum of D]
        self._text = np.empty((len(sentences), ends[-1]), np.result_type(*(m.text for m in members)))
        for member, columns, rows in zip(members, self._columns, sentences.T, strict=True):
            self._text[:, columns] = member.text[rows]

    def weighted(self, weights: Sequence[float]) -> Encoded:
        """Return the embeddings with the sum of the members' similarities, each times its weight.

        `weights`: one a member, in their order, with a sum of 1.
        """
        parts = list(zip(self._similarities, self._columns, weights, strict=True))

        def similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
            return sum(
                weight * of_member(images[:, columns], texts[:, columns])  # [I,T]
                for of_member, columns, weight in parts
            )

        return Encoded(self._image, self._text, self._sentence, self._measure, similarity)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows [S,K] of `rows` [M,K], as they first appear, and which of them each row is."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    places = np.sort(first)
    return rows[places], np.searchsorted(places, first)[inverse.reshape(-1)]


def normalized(weights: Sequence[float]) -> list[float]:
    """Return positive `weights` scaled to a sum of 1."""
    scaled = np.asarray(weights, np.float64) / max(weights)  # a sum of the largest numbers would overflow
    return (scaled / scaled.sum()).tolist()


@dataclass(frozen=True)
class Tuning:
    """The weights that a search found, their score and that of equal weights, and how many it tried."""

    weights: list[float]
    tuned: float
    equal: float
    evaluations: int


def tune_weights(score: Callable[[list[float]], float], members: int) -> Tuning:
    """Search the weights (positive, sum 1) with the highest `score`, by coordinates, from equal weights.

    Multiplies or divides one weight at a time by 2 while that raises the score, then by the square root of 2,
    and so on to its eighth root. The same scores give the same weights; no weights are scored twice.
    """
    scores: dict[tuple[float, ...], float] = {}

    def score_of(exponents: np.ndarray) -> float:
        key = tuple(exponents - exponents.max())  # only ratios count
        if key not in scores:
            scores[key] = score(normalized(np.exp2(key)))
        return scores[key]

    best = np.zeros(members)
    equal = score_of(best)
    for step in _STEPS:
        changes = [*np.eye(members) * step, *np.eye(members) * -step]
        improved = True
        while improved:
            improved = False
            for change in changes:
                if score_of(best + change) > score_of(best) + _ROUNDING:
                    best, improved = best + change, True
    return Tuning(normalized(np.exp2(best - best.max())), score_of(best), equal, len(scores))


def check_same_pairs(
    first: RetrievalDataset | PairDataset,
    first_name: str,
    other: RetrievalDataset | PairDataset,
    other_name: str,
) -> None:
    """Raise UserError that says where the splits of two models differ in images, captions or their ties."""
    needed = "both models need the same images and captions in one order: check the DATASET of both runs"
    sizes = [f"{split.num_images} images and {split.num_captions} captions" for split in (first, other)]
    if sizes[0] != sizes[1]:
        raise UserError(f"{other_name}: {sizes[1]} in {other.name}, {sizes[0]} for {first_name}; {needed}")
    for what, of_first, of_other in (
        ("image", first.image_ids, other.image_ids),
        ("caption", first.captions, other.captions),
        ("the image of caption", _images_of_captions(first), _images_of_captions(other)),
    ):
        for row, (expected, found) in enumerate(zip(of_first, of_other, strict=True), start=1):
            if expected != found:
                raise UserError(
                    f"{other_name}: {what} {row} of {other.name} is {found!r}, for {first_name} it is "
                    f"{expected!r}; {needed}"
                )


def _images_of_captions(split: RetrievalDataset | PairDataset) -> list[str]:
    return [split.image_ids[image] for image in split.caption_image]
