"""Queries of several terms: a sentence, a picture, an item, or their sum with weights, less another sentence.

The score of an item is the weighted sum of its cosines with the terms, divided by the length of the weighted
sum of their vectors, so that it is a cosine again; each term's part of the sum is shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError, cut
from serving.index.card import Card
from serving.index.engines import measured
from serving.index.engines.exact import exact_scores
from serving.index.index import Hit, Index

if TYPE_CHECKING:
    from serving.index.milvus.index import MilvusIndex


@dataclass(frozen=True)
class Term:
    """What one part of a query asks for: a vector [D], how much it counts, and whether a picture made it."""

    label: str
    vector: np.ndarray
    weight: float = 1.0
    of_picture: bool = False
    item: str | None = None  # an item of the index, which is not among its own hits


@dataclass(frozen=True)
class Answer:
    """The hits of a query. `deviations` tells how far the best stands above the query's own scores.

    `fits` is false where that is below the cut-off of the card, and None where the card has no usable one.
    `usual` are mean and standard deviation of the query's scores with a sample of items.
    """

    hits: list[Hit]
    deviations: float | None = None
    fits: bool | None = None
    usual: tuple[float, float] | None = None

    @property
    def scale(self) -> Callable[[float], float] | None:
        """Return what tells how many standard deviations a score is above the usual, if that is known."""
        if self.usual is None:
            return None
        mean, spread = self.usual
        return lambda score: (score - mean) / max(spread, 1e-12)


class Asker:
    """Answers queries over an index; it remembers the sample of items by which a best score is judged."""

    def __init__(self, index: "Index | MilvusIndex") -> None:
        self._index, self._sample = index, None

    def answers(self, queries: Sequence[Sequence[Term]], k: int, where: str | None = None) -> list[Answer]:
        """Return the `k` best items for each query, a sum of terms; each hit has the shares of its score.

        Raises UserError for terms that cancel, and for several terms where the measure is order similarity.
        """
        card = self._index.card
        if card.measure == "order":
            return [self._by_order(terms, k, where) for terms in queries]
        vectors = np.stack([combined(terms) for terms in queries])
        most = max(len(_own(terms)) for terms in queries)
        answers = []
        for terms, vector, hits in zip(
            queries, vectors, self._index.search(vectors, k + most, where), strict=True
        ):
            hits = [hit for hit in hits if hit.id not in _own(terms)][:k]
            hits = self._with_shares(hits, terms) if len(terms) > 1 else hits
            answers.append(Answer(hits) if where else self._judged(hits, vector, card))
        return answers

    def check(self, terms: Sequence[Term]) -> None:
        """Raise UserError as `answers` does, for the terms of one query alone."""
        if self._index.card.measure != "order":
            combined(terms)
        elif len(terms) > 1 or terms[0].weight <= 0:
            raise UserError("order similarity has no sum of terms: give one sentence, picture or item")

    def _by_order(self, terms: Sequence[Term], k: int, where: str | None) -> Answer:
        self.check(terms)
        term = terms[0]
        hits = self._index.search(term.vector[None], k + len(_own(terms)), where, term.of_picture)[0]
        return Answer([hit for hit in hits if hit.id not in _own(terms)][:k])

    def _with_shares(self, hits: list[Hit], terms: Sequence[Term]) -> list[Hit]:
        if not hits:
            return hits
        vectors = self._index.vectors_of([hit.id for hit in hits])
        length = float(np.linalg.norm(sum(term.weight * term.vector for term in terms)))
        shares = [exact_scores(vectors, term.vector) * (term.weight / length) for term in terms]
        rows = np.stack(shares, axis=1).tolist()
        return [replace(hit, shares=tuple(row)) for hit, row in zip(hits, rows, strict=True)]

    def _judged(self, hits: list[Hit], query: np.ndarray, card: Card) -> Answer:
        if card.cutoff is None or not hits:
            return Answer(hits)
        if self._sample is None:
            self._sample = self._index.sample(measured.SAMPLE)
        general = measured.sample_scores(self._sample, query[None])
        deviations = float(measured.normalised(np.float32([hits[0].score]), general)[0])
        usual = float(general.mean()), float(general.std())
        cutoff = card.usable_cutoff
        return Answer(hits, deviations, deviations >= cutoff["deviations"] if cutoff else None, usual)


def _own(terms: Sequence[Term]) -> set[str]:
    """Return the items that a query is made of, which are not among its hits."""
    return {term.item for term in terms if term.item is not None}


def combined(terms: Sequence[Term]) -> np.ndarray:
    """Return the weighted sum [D] of the terms' vectors, of length 1; raise UserError where they cancel."""
    if len(terms) == 1 and terms[0].weight > 0:
        return terms[0].vector
    total = sum(term.weight * term.vector for term in terms).astype(np.float32)
    length = float(np.linalg.norm(total))
    if length <= 1e-4 * sum(abs(term.weight) for term in terms):
        names = ", ".join(cut(term.label, 80) for term in terms)
        raise UserError(f"the terms cancel each other ({names}): change a weight")
    return total / np.float32(length)
