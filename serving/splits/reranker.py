"""Re-rank the hits of a search with a cross encoder."""

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

    `batch_tokens` bounds a batch, see `score_pairs`. The new score of a hit is the cross encoder's score plus
    `dual_weight` times the dual encoder's; hits of equal new scores keep their order.
    """

    def __init__(
        self, model: paddle.nn.Layer, dataset: PairDataset, batch_tokens: int, dual_weight: float = 0.0
    ) -> None:
        self._model, self._dataset = model, dataset
        self._batch_tokens, self._dual_weight = batch_tokens, dual_weight
        self._row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}

    def images_for_text(self, text: str, hits: list[Hit]) -> list[Hit]:
        """Return the pictures `hits` by their new score with the sentence `text`, best first."""
        images = np.array([self._row_of[hit.name] for hit in hits], dtype=np.int64)
        return self._reordered(hits, [text], Pairs(images, np.zeros_like(images)))

    def captions_for_image(self, image_id: str | None, hits: list[Hit]) -> list[Hit]:
        """Return the sentences `hits` by their new score with an image of the split, best first.

        Raises UserError where `image_id` is None: a file lacks the regions and tags that the
        cross encoder reads.
        """
        if image_id is None:
            raise UserError(
                "expected an image of the split with EVAL.RERANK_DIR, since that model needs the regions and "
                "tags of the image, got a file: leave out EVAL.RERANK_DIR"
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
