"""Ensembles: the weighted mean of several models' similarities, as in VSRN's results with two models.

Each model encodes the split by itself, with its own vocabulary. The embeddings are concatenated, and each
tile of scores is the weighted sum of the models' tiles, so that no matrix of all scores is ever in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import Encoded

# Exponents of 2: the search multiplies or divides a weight by 2 first, then by roots of 2.
_STEPS = (1.0, 0.5, 0.25, 0.125)
_ROUNDING = 1e-9  # scores that differ by less are equal


class Ensemble:
    """The embeddings of one split by several models, concatenated.

    Captions are one sentence to the ensemble if they are one sentence to every member.
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
        """Return the embeddings; their similarity is the weighted sum of the members' similarities.

        `weights` has a weight for each member, in order, with a sum of 1.
        """
        parts = list(zip(self._similarities, self._columns, weights, strict=True))

        def similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
            return sum(
                weight * of_member(images[:, columns], texts[:, columns])  # [I,T]
                for of_member, columns, weight in parts
            )

        return Encoded(self._image, self._text, self._sentence, self._measure, similarity)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct `rows` [S,K] of [M,K], in order of appearance, and the index [M] of each row."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    places = np.sort(first)
    return rows[places], np.searchsorted(places, first)[inverse.reshape(-1)]


def normalized(weights: Sequence[float]) -> list[float]:
    """Return positive `weights` scaled to a sum of 1."""
    scaled = np.asarray(weights, np.float64) / max(weights)  # the sum of very large weights would overflow
    return (scaled / scaled.sum()).tolist()


@dataclass(frozen=True)
class Tuning:
    """The weights that a search found, their score, that of equal weights, and the number of evaluations."""

    weights: list[float]
    tuned: float
    equal: float
    evaluations: int


def tune_weights(score: Callable[[list[float]], float], members: int) -> Tuning:
    """Search the weights (positive, sum 1) with the highest `score` by coordinate ascent from equal weights.

    Multiplies or divides one weight at a time by 2 while that raises the score, then by the square root of 2,
    and so on to the eighth root. The search is deterministic, and scores no weights twice.
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
    """Raise UserError that names the first image or caption in which the splits of two models differ."""
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
