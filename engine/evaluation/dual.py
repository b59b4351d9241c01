"""Evaluates a dual encoder: encodes every image and every distinct sentence once, then counts ranks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from config.progress import ShowProgress
from datasets.pairs import folds_of_images
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.protocol import (
    check_finite,
    check_protocol,
    evaluation_mode,
    make_result,
    tensors_of,
)
from engine.evaluation.result import Result
from engine.evaluation.scores.file import ScoreFile, names_in_file, open_scores
from engine.parallel.processes import all_or_none, process_number, world_size
from engine.parallel.shared_rows import share_rows
from engine.ranking.ranks import Question, rank_counters
from engine.ranking.short_lists import ListSink
from engine.ranking.similarity import Similarity, similarity_of
from models.kernels.precision import BFLOAT16, FLOAT32, computing_in

# On the CPU, a recurrent step costs as much for a few long sentences as for many, and each distinct word of a
# batch is projected once. So a batch of sentences is this many times larger than one of images.
TEXTS_TOGETHER = 8


@dataclass(frozen=True)
class Encoded:
    """The embeddings of a split, and the similarity to compare them with.

    `image` is [images,D] and `text` is [sentences,D]; `sentence` [captions] is the row of `text` for each
    caption. `measure` is the name of `similarity`, which takes images [I,D] and texts [T,D] and returns
    scores [I,T].
    """

    image: np.ndarray
    text: np.ndarray
    sentence: np.ndarray
    measure: str
    similarity: Similarity


def evaluate(
    model: nn.Layer,
    dataset: RetrievalDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    batch_size: int = 256,
    block_size: int = 1024,
    scores_path: str | Path | None = None,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> Result:
    """Measure retrieval in both directions between the images and the captions of `dataset`.

    `split` is the name to record. With `folds` > 1, the images are cut into that many slices, in order;
    images and captions compete within their slice alone, and the metrics are means over the slices.
    `batch_size` is the number of images in a batch to encode; `block_size` is the number of vectors on a side
    of a tile of scores. All scores are written to `scores_path`, if given (see `ScoreFile`). `progress` is
    called with a stage, the work done and its size; an exception that it raises ends the evaluation. `shared`
    is explained at `encode`; all processes get the same result.

    Raises UserError for fewer images than folds, an image without a caption, an embedding that is not
    finite, and a file that cannot be written.
    """
    check_protocol(dataset, split, folds)
    with open_scores(scores_path, dataset) as scores:
        encoded = encode(model, dataset, batch_size, progress, shared)
        part = (process_number(), world_size()) if shared else (0, 1)
        return rank_encoded(encoded, dataset, split, folds, tie_rule, block_size, scores, progress, part=part)


def rank_encoded(
    encoded: Encoded,
    dataset: RetrievalDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    block_size: int = 1024,
    scores: ScoreFile | None = None,
    progress: ShowProgress | None = None,
    lists: Sequence[ListSink] = (),
    part: tuple[int, int] = (0, 1),
) -> Result:
    """Measure retrieval between the embeddings of `dataset`; the arguments are those of `evaluate`.

    `scores` receives all scores, and each of `lists` those that lead among pairs that compete; `part`,
    which is explained at `rank_counters`, is the share of this process.
    """
    image_fold = folds_of_images(dataset.num_images, folds)
    caption_fold = image_fold[dataset.caption_image]
    [(of_images, of_captions)] = rank_counters(
        encoded.image,
        encoded.text,
        Question(dataset.relevance, image_fold, caption_fold),
        measure=encoded.similarity,
        block_size=block_size,
        tie_rule=tie_rule,
        caption_sentence=encoded.sentence,
        scores_out=[scores] if scores else [],
        lists_out=lists,
        progress=_stage(progress, "rank"),
        part=part,
    )
    if scores:
        scores.save(
            dataset.image_ids,
            [dataset.image_ids[image] for image in dataset.caption_image],
            **names_in_file(dataset),
        )
    return make_result(
        dataset,
        split,
        (of_images.tied(), of_captions.tied()),
        image_fold,
        tie_rule,
        len(encoded.text),
        encoded.measure,
        encoded.sentence,
    )


def encode(
    model: nn.Layer,
    dataset: RetrievalDataset,
    batch_size: int = 1024,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> Encoded:
    """Encode every image and every distinct sentence of `dataset` once.

    With a folder `shared`, all processes of the job call this: each encodes a part of the batches, and all
    get all embeddings (see `share_rows`). The batches, and thus the embeddings, do not depend on the number
    of processes.
    """
    image = encode_images(model, dataset, batch_size, progress, shared=shared)
    text, sentence = encode_captions(model, dataset, batch_size, progress, shared)
    return Encoded(image, text, sentence, model.measure, similarity_of(model.measure))


def encode_images(
    model: nn.Layer,
    dataset: RetrievalDataset,
    batch_size: int = 1024,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> np.ndarray:
    """Return the embeddings [images,D] float32 of all images; `shared` is explained at `encode`.

    Raises UserError that names an image whose embedding is not finite.
    """

    def encode_batch(images: np.ndarray) -> np.ndarray:
        embeddings = model.encode_image(tensors_of(dataset.image_batch(images))).numpy()
        check_finite("embeddings", embeddings, lambda row: f"image {dataset.image_ids[images[row]]}")
        return embeddings

    order = np.arange(dataset.num_images)
    return _encode(model, encode_batch, order, batch_size, _stage(progress, "encode images"), shared)


def encode_captions(
    model: nn.Layer,
    dataset: RetrievalDataset,
    batch_size: int = 1024,
    progress: ShowProgress | None = None,
    shared: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings [sentences,D] float32 of the distinct sentences, and the row [captions] of each.

    Captions with equal `sentence_ids` are one sentence to the model and are encoded once. On the CPU, a batch
    holds up to `TEXTS_TOGETHER` times `batch_size` sentences with common prefixes, which the text encoder
    computes once. On a GPU, it holds `batch_size` sentences of similar length. `shared` is explained at
    `encode`. Raises UserError that names a caption whose embedding is not finite.
    """
    _, captions, sentence = np.unique(dataset.sentence_ids, return_index=True, return_inverse=True)
    if paddle.device.get_device() == "cpu":
        order = order_by_words(dataset, captions)
        steps = max(1, math.ceil(len(captions) / (TEXTS_TOGETHER * batch_size)))
        batch_size = max(1, math.ceil(len(captions) / steps))
    else:
        # The longest first: if there is too little memory, the first batch shows it.
        order = np.argsort(-dataset.lengths[captions], kind="stable")

    def encode_batch(rows: np.ndarray) -> np.ndarray:
        embeddings = model.encode_text(tensors_of(dataset.text_batch(captions[rows]))).numpy()
        check_finite("embeddings", embeddings, lambda row: _name_of_caption(dataset, captions[rows[row]]))
        return embeddings

    stage = _stage(progress, "encode captions")
    return _encode(model, encode_batch, order, batch_size, stage, shared), sentence


@dataclass(frozen=True)
class PrecisionCheck:
    """What bfloat16 changes for some captions of a split, each ranked among all its images.

    `embedding` and `score` are the largest absolute differences, `same_rank` is the number of captions whose
    own image has the same rank in both, and `recall` has the recalls in percent of float32 and of bfloat16.
    """

    captions: int
    embedding: float
    score: float
    same_rank: int
    recall: dict[str, tuple[float, float]]

    def describe(self) -> str:
        """Return the check in a line."""
        recalls = (
            f"{name} {full:.2f} in float32, {low:.2f} in bfloat16"
            for name, (full, low) in self.recall.items()
        )
        return (
            f"bfloat16 against float32 for {self.captions} captions: an embedding differs by at most "
            f"{self.embedding:.2g}, a score by {self.score:.2g}; text to image, "
            f"the own image has the same rank for {self.same_rank}; {'; '.join(recalls)}"
        )


def check_precision(
    model: nn.Layer, dataset: RetrievalDataset, count: int, batch_size: int = 1024
) -> PrecisionCheck:
    """Encode `count` captions, evenly spread over the split, and all images in both precisions; compare."""
    captions = np.unique(np.linspace(0, dataset.num_captions - 1, count).astype(np.int64))
    similarity, found = similarity_of(model.measure), []
    for precision in (FLOAT32, BFLOAT16):
        with computing_in(precision), evaluation_mode(model), paddle.no_grad():
            images = encode_images(model, dataset, batch_size)
            texts = model.encode_text(tensors_of(dataset.text_batch(captions))).numpy()
        scores = np.asarray(similarity(images, texts))  # [images,captions]
        own = scores[dataset.caption_image[captions], np.arange(len(captions))]
        found.append((texts, images, scores, (scores > own).sum(axis=0)))
    (*full, full_rank), (*low, low_rank) = found
    texts, images, scores = (float(np.abs(one - other).max()) for one, other in zip(full, low, strict=True))
    recall = {
        f"R@{k}": tuple(100 * float((rank < k).mean()) for rank in (full_rank, low_rank)) for k in (1, 5, 10)
    }
    same = int((full_rank == low_rank).sum())
    return PrecisionCheck(len(captions), max(texts, images), scores, same, recall)


def order_by_words(dataset: RetrievalDataset, captions: np.ndarray) -> np.ndarray:
    """Return the order [B] of `captions` by their words: captions with a common prefix are adjacent."""
    batch = dataset.text_batch(captions)
    present = np.arange(batch["token_ids"].shape[1]) < batch["text_len"][:, None]
    return np.lexsort(np.where(present, batch["token_ids"], -1).T[::-1])


def _encode(
    model: nn.Layer,
    encode_batch: Callable[[np.ndarray], np.ndarray],
    order: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None],
    shared: str | Path | None,
) -> np.ndarray:
    """Return the embeddings [N,D] of all rows; the permutation `order` [N] is cut into batches.

    Each process encodes some of the batches, which do not depend on the number of processes.
    """
    number, processes = (process_number(), world_size()) if shared else (0, 1)
    batches = np.split(order, range(batch_size, len(order), batch_size))
    own = [batches[index] for index in np.array_split(np.arange(len(batches)), processes)[number]]
    rows = np.sort(np.concatenate(own)) if own else order[:0]

    def encode_own() -> np.ndarray | None:
        embeddings, done = None, 0
        with evaluation_mode(model), paddle.no_grad():
            for batch in own:
                encoded = encode_batch(batch)  # [B,D]
                if embeddings is None:
                    embeddings = np.empty((len(rows), encoded.shape[1]), np.float32)
                embeddings[np.searchsorted(rows, batch)] = encoded
                done += len(batch)
                progress(done, len(rows))
        return embeddings

    if processes == 1:
        return encode_own()
    return share_rows(rows, all_or_none(encode_own), len(order), shared)


def _name_of_caption(dataset: RetrievalDataset, caption: int) -> str:
    return f"caption {caption + 1} ({dataset.captions[caption]!r})"


def _stage(progress: ShowProgress | None, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total) if progress else None
