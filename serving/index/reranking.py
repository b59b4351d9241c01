"""Put the best hits of a sentence in the order of a bundle that scores pairs of a sentence and a picture."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from config.errors import UserError
from datasets.features.formats import open_features
from serving.index.index import Hit


class PairScorer(Protocol):
    """What scores a sentence with pictures; a bundle of a cross encoder does."""

    def score_pairs(
        self, texts: list[str], regions: np.ndarray, counts: np.ndarray, tags: list[list[str]]
    ) -> np.ndarray:
        """Return the scores [P] of sentences with regions [P,R,F], of which `counts` [P] are there."""


class Reranker:
    """Scores hits again from the regions and tags of their pictures, which are in the file `features`.

    Raises UserError where that file cannot be read.
    """

    def __init__(self, scorer: PairScorer, features: str | Path) -> None:
        self._scorer, self._store = scorer, open_features(features)

    def reordered(self, text: str, hits: list[Hit]) -> list[Hit]:
        """Return the pictures `hits` by their new scores with a sentence; equal ones keep their order.

        Raises UserError for a hit whose picture is not in the file.
        """
        if not hits:
            return hits
        rows = np.array([self._row(hit.id) for hit in hits])
        regions, counts = self._store.gather(rows, pool=False), self._store.counts(rows)
        if regions.ndim == 2:
            regions = regions[:, None]
        tags = [self._store.annotations(row).tags or [] for row in rows.tolist()]
        scores = self._scorer.score_pairs([text] * len(hits), regions, counts, tags)
        scored = [
            replace(hit, score=float(score), shares=(), before=place)
            for place, (hit, score) in enumerate(zip(hits, scores, strict=True), start=1)
        ]
        return sorted(scored, key=lambda hit: -hit.score)

    def _row(self, identity: str) -> int:
        names = self._store.row_of
        if names is None and identity.isdecimal() and int(identity) < len(self._store):
            return int(identity)
        if names is None or identity not in names:
            raise UserError(
                f"{self._store.path}: no row is of the picture {identity!r}, which --rerank reads: name "
                "the right file with --rerank_features"
            )
        return names[identity]
