"""Compares a model with its graphs on the dev split: embeddings, ranks one by one, and recalls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import paddle
from yacs.config import CfgNode

from datasets.build.cross import open_pair_split, pair_dataset_of
from datasets.build.dual import build_dataset
from datasets.build.image import build_image_dataset
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.pictures.copies import number_pictures
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import Encoded, encode, rank_encoded
from engine.evaluation.image import check_searchable, encode_pictures
from engine.evaluation.pair_scoring import score_pairs
from engine.evaluation.protocol import check_protocol, tensors_of
from engine.export.ragged import largest_difference, ragged_images, ragged_pairs, ragged_texts
from engine.ranking.metrics import ranks, summarize
from engine.ranking.pictures.metrics import IMAGE_RECALLS, summarize_images
from engine.ranking.pictures.ranks import image_ranks
from engine.tasks.task import Trained

NEAR = 1e-6  # of the largest score: scores closer than this are ordered by rounding
_MOST_PAIRS = 4096  # that a cross encoder scores for its proof
_IMAGES_TOGETHER = 64


class Encoders(Protocol):
    """What a proof asks of a bundle; `serving.bundle.bundle.Bundle` has it."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts."""

    def encode_tokens(self, token_ids: np.ndarray, text_len: np.ndarray) -> np.ndarray:
        """Return the embeddings of token ids."""

    def encode_features(self, features: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Return the embeddings of features."""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of prepared pictures."""

    def score_pairs(self, texts, regions, counts, tags, pairs) -> np.ndarray:
        """Return the scores of pairs."""

    def score_batch(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the scores of a batch of pairs."""


@dataclass(frozen=True)
class Evidence:
    """What a comparison found.

    `difference` is the largest one of the embeddings (of a cross encoder, the scores) of the dev split, and
    `ragged` that of ragged batches. `before` and `after` [queries] are the ranks by the model and by the
    graphs. `near` [queries] is how many rivals of a query, whose rank changed, score the same as its best
    relevant item but for rounding. The metrics are in percent, the mean of all recalls (`mean_recall`) among
    them. `counts` says what was compared.
    """

    difference: float
    ragged: float
    before: np.ndarray
    after: np.ndarray
    near: np.ndarray
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
    counts: dict[str, int | str]


def gather_evidence(cfg: CfgNode, kind: str, trained: Trained, bundle: Encoders) -> Evidence:
    """Compare a trained model of `kind` with its bundle on the dev split of `cfg`."""
    compare = {"dual": _compare_dual, "cross": _compare_cross, "image": _compare_pictures}
    return compare[kind](cfg, trained, bundle)


def _compare_dual(cfg: CfgNode, trained: Trained, bundle: Encoders) -> Evidence:
    model = trained.model
    dataset = build_dataset(cfg, cfg.DATASET.DEV, trained.words, training=False)
    check_protocol(dataset, cfg.DATASET.DEV, folds=1)
    ours = encode(model, dataset, cfg.EVAL.BATCH_SIZE)
    _, first = np.unique(dataset.sentence_ids, return_index=True)
    theirs = Encoded(
        _encode_images(dataset, bundle),
        bundle.encode_texts([dataset.captions[caption] for caption in first]),
        ours.sentence,
        ours.measure,
        ours.similarity,
    )
    results = [
        rank_encoded(each, dataset, dataset.name, tie_rule=cfg.EVAL.TIE_RULE, block_size=cfg.EVAL.BLOCK_SIZE)
        for each in (ours, theirs)
    ]
    before, after = (np.concatenate([each.i2t_ranks, each.t2i_ranks]) for each in results)

    def scores_of(query: int) -> tuple[np.ndarray, np.ndarray]:
        if query < dataset.num_images:
            scores = ours.similarity(ours.image[query : query + 1], ours.text)[0][ours.sentence]
            return scores, dataset.relevance.are_right(query, np.arange(len(scores)))
        caption = query - dataset.num_images
        row = ours.sentence[caption]
        scores = ours.similarity(ours.image, ours.text[row : row + 1])[:, 0]
        return scores, dataset.relevance.are_right(np.arange(len(scores)), caption)

    texts = ragged_texts(len(trained.words), int(dataset.lengths.max()), cfg.INPUT.MAX_SEQ_LEN)
    ragged = [
        largest_difference(_tensor_function(model.encode_text), lambda b: bundle.encode_tokens(**b), texts),
        largest_difference(
            _tensor_function(model.encode_image),
            lambda batch: encode_image_batch(bundle, batch),
            ragged_images(dataset),
        ),
    ]
    return Evidence(
        max(np.abs(ours.image - theirs.image).max(), np.abs(ours.text - theirs.text).max()),
        max(ragged),
        before,
        after,
        near_rivals(before, after, scores_of),
        *(each.metrics for each in results),
        {"split": dataset.name, "images": dataset.num_images, "captions": dataset.num_captions},
    )


def _compare_cross(cfg: CfgNode, trained: Trained, bundle: Encoders) -> Evidence:
    split = open_pair_split(cfg, cfg.DATASET.DEV, training=False)
    dataset = pair_dataset_of(cfg, split, trained.words)
    count = _images_for_proof(dataset)
    captions = np.flatnonzero(dataset.caption_image < count)
    grid = np.meshgrid(np.arange(count), np.arange(len(captions)), indexing="ij")
    images, columns = (each.reshape(-1) for each in grid)
    tokens = cfg.EVAL.BATCH_TOKENS
    ours = score_pairs(trained.model, dataset, Pairs(images, captions[columns]), tokens)
    batch = dataset.image_batch(np.arange(count))
    tags = split.tags()
    theirs = bundle.score_pairs(
        [dataset.captions[caption] for caption in captions],
        batch["regions"],
        batch["num_regions"],
        None if tags is None else list(islice(tags, count)),
        Pairs(images, columns),
    )
    matrices = [each.reshape(count, len(captions)) for each in (ours, theirs)]
    owners = dataset.caption_image[captions]
    both = [(ranks(m, np.arange(count), owners), ranks(m.T, owners, np.arange(count))) for m in matrices]
    before, after = (np.concatenate(each) for each in both)

    def scores_of(query: int) -> tuple[np.ndarray, np.ndarray]:
        if query < count:
            return matrices[0][query], owners == query
        return matrices[0][:, query - count], np.arange(count) == owners[query - count]

    ragged = largest_difference(
        _tensor_function(trained.model.score_pairs),
        lambda inputs: bundle.score_batch(**inputs),
        ragged_pairs(dataset, len(trained.words)),
    )
    return Evidence(
        np.abs(ours - theirs).max(),
        ragged,
        before,
        after,
        near_rivals(before, after, scores_of),
        *(summarize(*each) for each in both),
        {"split": dataset.name, "images": count, "captions": len(captions), "pairs": len(images)},
    )


def _compare_pictures(cfg: CfgNode, trained: Trained, bundle: Encoders) -> Evidence:
    dataset = build_image_dataset(cfg, cfg.DATASET.DEV, training=False)
    check_searchable(dataset)
    [files] = number_pictures((dataset.loader.files, dataset.image_ids))
    ours = encode_pictures(trained.model, dataset, files, cfg.EVAL.BATCH_SIZE)
    theirs = np.concatenate(
        [
            bundle.encode_pixels(dataset.readable(part, 0)["pixels"])
            for part in np.split(ours.places, range(_IMAGES_TOGETHER, len(ours.places), _IMAGES_TOGETHER))
        ]
    )
    both = [
        image_ranks(each, ours.classes, tie_rule=cfg.EVAL.TIE_RULE, files=(ours.files, ours.files))
        for each in (ours.embeddings, theirs)
    ]
    metrics = [_picture_metrics(each) for each in both]

    def scores_of(query: int) -> tuple[np.ndarray, np.ndarray]:
        row = both[0].queries[query]
        scores = ours.embeddings @ ours.embeddings[row]
        itself = ours.files == ours.files[row]
        scores[itself] = -2  # below all cosines: no picture finds itself
        return scores, (ours.classes == ours.classes[row]) & ~itself

    places = [np.resize(ours.places, count) for count in (1, 33)]
    ragged = largest_difference(
        _tensor_function(trained.model.encode_image),
        lambda batch: bundle.encode_pixels(batch["pixels"]),
        [{"pixels": dataset.readable(each, 0)["pixels"]} for each in places],
    )
    return Evidence(
        np.abs(ours.embeddings - theirs).max(),
        ragged,
        both[0].ranks,
        both[1].ranks,
        near_rivals(both[0].ranks, both[1].ranks, scores_of),
        *metrics,
        {"split": dataset.name, "images": len(ours.places), "queries": len(both[0].queries)},
    )


def encode_image_batch(bundle: Encoders, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Return the embeddings [B,D] that a bundle makes of the image side of a batch."""
    if "pixels" in batch:
        return bundle.encode_pixels(batch["pixels"])
    if "regions" in batch:
        return bundle.encode_features(batch["regions"], batch["num_regions"])
    return bundle.encode_features(batch["features"])


def _encode_images(dataset: RetrievalDataset, bundle: Encoders) -> np.ndarray:
    rows = np.arange(dataset.num_images)
    parts = np.split(rows, range(_IMAGES_TOGETHER, len(rows), _IMAGES_TOGETHER))
    return np.concatenate([encode_image_batch(bundle, dataset.image_batch(part)) for part in parts])


def _images_for_proof(dataset: PairDataset) -> int:
    """Return how many of the first images make at most `_MOST_PAIRS` pairs with their captions."""
    captions = np.bincount(dataset.caption_image, minlength=dataset.num_images).cumsum()
    pairs = captions * np.arange(1, dataset.num_images + 1)
    return max(1, int((pairs <= _MOST_PAIRS).sum()))


def _picture_metrics(found) -> dict[str, float]:
    metrics = summarize_images(found.ranks, found.average_precision, found.r_precision)
    recalls = [metrics[f"r{k}"] for k in IMAGE_RECALLS]
    return {**metrics, "mean_recall": float(np.mean(recalls))}


def near_rivals(
    before: np.ndarray, after: np.ndarray, scores_of: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return for each query, whose rank changed, how many rivals score like its best relevant item."""
    near = np.zeros(len(before), np.int64)
    for query in np.flatnonzero(before != after):
        scores, relevant = scores_of(int(query))
        width = NEAR * max(1.0, float(np.abs(scores).max()))
        near[query] = (np.abs(scores[~relevant] - scores[relevant].max()) <= width).sum()
    return near


def _tensor_function(function: Callable[[dict], paddle.Tensor]) -> Callable[[dict], np.ndarray]:
    def call(batch: dict[str, np.ndarray]) -> np.ndarray:
        with paddle.no_grad():
            return function(tensors_of(batch)).numpy()

    return call
