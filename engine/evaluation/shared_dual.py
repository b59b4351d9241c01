"""Evaluate a dual encoder with all processes of a job: each encodes and ranks its share."""

from dataclasses import dataclass

import numpy as np
from paddle import nn

from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import (
    Encoded,
    Progress,
    check_protocol,
    encode,
    encode_images,
    encode_sentences,
    evaluate,
    folds_of_images,
    make_result,
)
from engine.evaluation.result import Result
from engine.parallel.processes import all_or_none, all_reduce, gather_array, process_number, world_size
from engine.ranking.shared_ranks import Share, shared_ranks
from engine.ranking.similarity import similarity_of


@dataclass(frozen=True)
class EncodedShare:
    """What this process has encoded: the images from `first_image` on, and the sentences of its captions.

    `sentences`: how many there are in all processes.
    """

    first_image: int
    image: Share
    text: Share
    sentences: int


def evaluate_together(
    model: nn.Layer,
    dataset: RetrievalDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    batch_size: int = 256,
    block_size: int = 1024,
    progress: Progress | None = None,
) -> Result:
    """Return what `evaluator.evaluate` does, in every process of the job, which share the work.

    What one process raises ends the evaluation in all; so does what `progress` raises.
    """
    if world_size() == 1:
        return evaluate(model, dataset, split, folds, tie_rule, batch_size, block_size, progress=progress)
    check_protocol(dataset, split, folds)
    encoded = encode_share(model, dataset, batch_size, progress)
    return rank_share(encoded, model.measure, dataset, split, folds, tie_rule, block_size, progress)


def encode_together(
    model: nn.Layer, dataset: RetrievalDataset, batch_size: int, progress: Progress | None = None
) -> Encoded:
    """Return what `evaluator.encode` does, whole in every process of the job; each encodes its share.

    Rows of `text` may come in another order, in which `sentence` finds them.
    """
    if world_size() == 1:
        return encode(model, dataset, batch_size, progress)
    share = encode_share(model, dataset, batch_size, progress)
    image, text = (gather_array(side.vectors) for side in (share.image, share.text))
    return Encoded(image, text, share.text.vector_of, model.measure, similarity_of(model.measure))


def encode_share(
    model: nn.Layer, dataset: RetrievalDataset, batch_size: int, progress: Progress | None = None
) -> EncodedShare:
    """Encode this process's part of the images, and the sentences that first describe one of them."""
    edges = np.linspace(0, dataset.num_images, world_size() + 1).astype(np.int64)
    _, captions, sentence = np.unique(dataset.sentence_ids, return_index=True, return_inverse=True)
    owner = np.searchsorted(edges, dataset.caption_image[captions], side="right") - 1
    by_owner = np.argsort(owner, kind="stable")
    number = np.empty_like(by_owner)
    number[by_owner] = np.arange(len(captions))  # of each sentence, counted process by process
    images = np.arange(edges[process_number()], edges[process_number() + 1])
    own = captions[by_owner[owner[by_owner] == process_number()]]

    def encode() -> list[np.ndarray | None]:
        return [
            encode_images(model, dataset, batch_size, progress, images) if len(images) else None,
            encode_sentences(model, dataset, own, batch_size, progress) if len(own) else None,
        ]

    encoded = all_or_none(encode)
    width = all_reduce(np.array([0 if part is None else part.shape[1] for part in encoded]), "max").max()
    image, text = (np.empty((0, width), np.float32) if part is None else part for part in encoded)
    return EncodedShare(
        int(edges[process_number()]),
        Share(image, np.arange(dataset.num_images)),
        Share(text, number[sentence]),
        len(captions),
    )


def rank_share(
    encoded: EncodedShare,
    measure: str,
    dataset: RetrievalDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    block_size: int = 1024,
    progress: Progress | None = None,
) -> Result:
    """Return the result of what all processes have encoded, in every process."""
    image_fold = folds_of_images(dataset.num_images, folds)
    ranks = shared_ranks(
        encoded.image,
        encoded.text,
        dataset.image_ids,
        [dataset.image_ids[image] for image in dataset.caption_image],
        similarity_of(measure),
        block_size,
        tie_rule,
        image_fold,
        image_fold[dataset.caption_image],
        lambda done, total: all_or_none(lambda: progress and progress("rank", done, total)),
    )
    return make_result(dataset, split, ranks, image_fold, tie_rule, encoded.sentences, measure)
