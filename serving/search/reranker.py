"""Put what a search found in the order of a cross encoder."""

from dataclasses import replace

import numpy as np
import paddle

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from engine.evaluation.pair_scoring import score_pairs
from serving.search.searcher import Hit


class Reranker:
    """Re-score the hits of a `Searcher` over the same split as `dataset`.

    `batch_tokens`: see `score_pairs`. A hit's score becomes the cross encoder's, plus `dual_weight` times
    what it was; of equal ones the order stays.
    """

    def __init__(
        self, model: paddle.nn.Layer, dataset: PairDataset, batch_tokens: int, dual_weight: float = 0.0
    ) -> None:
        self._model, self._dataset = model, dataset
        self._batch_tokens, self._dual_weight = batch_tokens, dual_weight
        self._row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}

    def images_for_text(self, text: str, hits: list[Hit]) -> list[Hit]:
        """Return the pictures `hits`, those that fit a sentence best first."""
        images = np.array([self._row_of[hit.name] for hit in hits], dtype=np.int64)
        return self._reordered(hits, [text], Pairs(images, np.zeros_like(images)))

    def captions_for_image(self, image_id: str | None, hits: list[Hit]) -> list[Hit]:
        """Return the sentences `hits`, those that fit an image of the split best first.

        Raises UserError without an image of the split: the cross encoder reads its tags and regions there.
        """
        if image_id is None:
            raise UserError(
                "--image: expected an image of the split with EVAL.RERANK_DIR, whose model reads its regions "
                "and tags there, got a file of features: leave out EVAL.RERANK_DIR"
            )
        images = np.full(len(hits), self._row_of[image_id])
        return self._reordered(hits, [hit.name for hit in hits], Pairs(images, np.arange(len(hits))))

    def _reordered(self, hits: list[Hit], texts: list[str], pairs: Pairs) -> list[Hit]:
        scores = score_pairs(self._model, self._dataset.with_texts(texts), pairs, self._batch_tokens)
        scored = [
            replace(hit, score=float(score) + self._dual_weight * hit.score, before=place)
            for place, (hit, score) in enumerate(zip(hits, scores, strict=True), start=1)
        ]
        return sorted(scored, key=lambda hit: -hit.score)
