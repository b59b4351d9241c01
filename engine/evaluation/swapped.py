"""Accuracy on swapped captions: does a true sentence score higher than its words in another order?"""

from collections.abc import Sequence

import numpy as np
import paddle

from config.errors import UserError
from datasets.captions.swapped import SwappedPair
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.pair_scoring import score_pairs
from engine.evaluation.protocol import evaluation_mode, tensors_of


def swapped_scores(
    model: paddle.nn.Layer, dataset: RetrievalDataset, pairs: Sequence[SwappedPair], images: np.ndarray
) -> np.ndarray:
    """Return the scores [2,P] of the pairs' true captions, and of the swapped ones, with `images` [P,D]."""
    sides = [pair.caption for pair in pairs], [pair.swapped for pair in pairs]
    return np.stack([_paired_scores(model, images, _encode(model, dataset, texts)) for texts in sides])


def cross_swapped_scores(
    model: paddle.nn.Layer, dataset: PairDataset, pairs: Sequence[SwappedPair], batch_tokens: int
) -> np.ndarray:
    """Return the scores [2,P] of a cross encoder for the true captions and the swapped ones.

    `batch_tokens` is explained at `score_pairs`.
    """
    texts = [pair.caption for pair in pairs] + [pair.swapped for pair in pairs]
    rows = np.tile(rows_of(dataset, pairs), 2)
    order = np.argsort(rows, kind="stable")  # sorted by image, so that each image is read once
    scores = np.empty(len(texts), np.float32)
    scores[order] = score_pairs(model, dataset.with_texts(texts), Pairs(rows[order], order), batch_tokens)
    return scores.reshape(2, -1)


def swapped_accuracy(scores: np.ndarray, pairs: Sequence[SwappedPair]) -> dict[str, float]:
    """Return the accuracy: the percentage of `pairs` whose true caption scores higher, by kind and for `all`.

    `scores` [2,P] are those of `swapped_scores`. A tie counts half, so that a model which ignores the order
    of words has 50 percent.
    """
    true, false = scores
    right = np.where(true > false, 100.0, np.where(true == false, 50.0, 0.0))  # [P]
    kinds = np.asarray([pair.kind for pair in pairs])
    return {
        "all": float(right.mean()),
        **{kind: float(right[kinds == kind].mean()) for kind in sorted(set(kinds))},
    }


def rows_of(dataset: RetrievalDataset | PairDataset, pairs: Sequence[SwappedPair]) -> np.ndarray:
    """Return the row of each pair's image, int64 [P]; raise UserError for an image not in the split."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    unknown = next((pair.image_id for pair in pairs if pair.image_id not in row_of), None)
    if unknown is not None:
        raise UserError(
            f"swapped captions name the image {unknown!r}, which is not in the {dataset.name} split"
        )
    return np.array([row_of[pair.image_id] for pair in pairs], dtype=np.int64)


def _encode(
    model: paddle.nn.Layer, dataset: RetrievalDataset, texts: list[str], batch_size: int = 256
) -> np.ndarray:
    captions, embeddings = dataset.with_texts(texts), []
    with evaluation_mode(model), paddle.no_grad():
        for start in range(0, len(texts), batch_size):
            batch = captions.text_batch(np.arange(start, min(start + batch_size, len(texts))))
            tensors = tensors_of(batch)
            embeddings.append(model.encode_text(tensors).numpy())
    return np.concatenate(embeddings)


def _paired_scores(model: paddle.nn.Layer, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the score [P] of each of `images` [P,D] with the text of its row in `texts` [P,D]."""
    with paddle.no_grad():
        pairs = zip(
            paddle.to_tensor(images).split(len(images)),
            paddle.to_tensor(texts).split(len(texts)),
            strict=True,
        )
        return np.concatenate([model.similarity(image, text).numpy()[0] for image, text in pairs])
