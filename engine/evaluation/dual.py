"""Evaluate a dual encoder: encode every image and every distinct sentence once, then count ranks."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from config.errors import UserError
from config.progress import ShowProgress
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.result import Result
from engine.evaluation.score_file import ScoreFile
from engine.ranking.metrics import TIE_RULES, summarize
from engine.ranking.ranks import Both, ScoreSink, retrieval_ranks
from engine.ranking.similarity import Similarity, similarity_of

Progress = ShowProgress

# On the CPU a few long sentences cost a batch as much as many would, and each of its different words is
# projected once: so a batch of sentences is so many times larger than one of images.
TEXTS_TOGETHER = 8


@dataclass(frozen=True)
class Encoded:
    """The embeddings of a split, and how they are compared.

    `image` [images,D], `text` [sentences,D]; `sentence` [captions] is the row of `text` for each caption.
    `measure` names `similarity`, which takes images [I,D] and texts [T,D] and returns scores [I,T].
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
    progress: Progress | None = None,
) -> Result:
    """Measure retrieval in both directions between the images and the captions of `dataset`.

    `split` is the name to record. With `folds` > 1 the images are cut into that many slices, in order; an
    image and its captions compete within their slice alone, and the metrics are the mean over slices.
    `batch_size` counts images or sentences per encoding step, `block_size` images per block of scores.
    `scores_path` takes all scores (see `ScoreFile`). `progress` is called with a stage, what is done of
    it and its size; what it raises ends the evaluation.

    Raises UserError for fewer images than folds, an image without a caption, an embedding that is not
    finite, and a file that cannot be written.
    """
    check_protocol(dataset, split, folds)
    with open_scores(scores_path, dataset) as scores:
        encoded = encode(model, dataset, batch_size, progress)
        return rank_encoded(encoded, dataset, split, folds, tie_rule, block_size, scores, progress)


def rank_encoded(
    encoded: Encoded,
    dataset: RetrievalDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    block_size: int = 1024,
    scores: ScoreFile | None = None,
    progress: Progress | None = None,
    lists: ScoreSink | None = None,
) -> Result:
    """Measure retrieval between the embeddings of `dataset`; the arguments are those of `evaluate`.

    `lists` is shown all scores as they are made, where `scores` does not take them.
    """
    image_fold = folds_of_images(dataset.num_images, folds)
    caption_fold = image_fold[dataset.caption_image]
    caption_image_ids = [dataset.image_ids[image] for image in dataset.caption_image]
    i2t_ranks, t2i_ranks = retrieval_ranks(
        encoded.image,
        encoded.text,
        dataset.image_ids,
        caption_image_ids,
        measure=encoded.similarity,
        block_size=block_size,
        tie_rule=tie_rule,
        caption_sentence=encoded.sentence,
        image_fold=image_fold,
        caption_fold=caption_fold,
        scores_out=scores or lists,
        progress=_stage(progress, "rank"),
    )
    if scores:
        scores.save(dataset.image_ids, caption_image_ids)
    return make_result(
        dataset,
        split,
        (i2t_ranks, t2i_ranks),
        image_fold,
        tie_rule,
        len(encoded.text),
        encoded.measure,
    )


def make_result(
    dataset: RetrievalDataset | PairDataset,
    split: str,
    ranks: Both,
    image_fold: np.ndarray,
    tie_rule: str,
    distinct_sentences: int,
    measure: str,
) -> Result:
    """Return the result of `ranks`, those of the images and those of the captions; `image_fold` [images]."""
    caption_fold, folds = image_fold[dataset.caption_image], int(image_fold[-1]) + 1
    per_fold = [
        summarize(ranks[0][image_fold == fold], ranks[1][caption_fold == fold]) for fold in range(folds)
    ]
    metrics = {name: float(np.mean([fold[name] for fold in per_fold])) for name in per_fold[0]}
    protocol = {
        "split": split,
        "images": dataset.num_images,
        "captions": dataset.num_captions,
        "distinct_sentences": distinct_sentences,
        "folds": folds,
        "fold_images": np.bincount(image_fold).tolist(),
        "fold_captions": np.bincount(caption_fold).tolist(),
        "tie_rule": tie_rule,
        "tie_rule_text": TIE_RULES[tie_rule],
        "measure": measure,
    }
    return Result(metrics, protocol, per_fold if folds > 1 else [], *ranks)


def open_scores(
    path: str | Path | None, dataset: RetrievalDataset | PairDataset
) -> contextlib.AbstractContextManager[ScoreFile | None]:
    """Return the file at `path` for all scores of `dataset`, or nothing to write to without a path."""
    return ScoreFile(path, dataset.num_images, dataset.num_captions) if path else contextlib.nullcontext()


def encode(
    model: nn.Layer, dataset: RetrievalDataset, batch_size: int = 1024, progress: Progress | None = None
) -> Encoded:
    """Encode every image and every distinct sentence of `dataset` once."""
    image = encode_images(model, dataset, batch_size, progress)
    text, sentence = encode_captions(model, dataset, batch_size, progress)
    return Encoded(image, text, sentence, model.measure, similarity_of(model.measure))


def encode_images(
    model: nn.Layer,
    dataset: RetrievalDataset,
    batch_size: int = 1024,
    progress: Progress | None = None,
    images: np.ndarray | None = None,
) -> np.ndarray:
    """Return the embeddings [images,D] float32 of all images, or of `images` [n], each encoded once.

    Raises UserError that names an image whose embedding is not finite.
    """
    images = np.arange(dataset.num_images) if images is None else images
    return _encode(
        model,
        model.encode_image,
        dataset.image_batch,
        images,
        batch_size,
        _stage(progress, "encode images"),
        lambda image: f"image {dataset.image_ids[image]}",
    )


def encode_captions(
    model: nn.Layer, dataset: RetrievalDataset, batch_size: int = 1024, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings [sentences,D] float32 of the distinct sentences, and the row [captions] of each.

    Captions that are one sentence to the model (equal `sentence_ids`) are encoded once. Raises UserError that
    names a caption whose embedding is not finite.
    """
    _, captions, sentence = np.unique(dataset.sentence_ids, return_index=True, return_inverse=True)
    return encode_sentences(model, dataset, captions, batch_size, progress), sentence


def encode_sentences(
    model: nn.Layer,
    dataset: RetrievalDataset,
    captions: np.ndarray,
    batch_size: int = 1024,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the embeddings [n,D] float32 of `captions` [n], all of different sentences.

    On the CPU, sentences that begin alike go together, since the text encoder shares what they begin with,
    and `TEXTS_TOGETHER` times `batch_size` at once; elsewhere those of one length. Raises UserError that
    names a caption whose embedding is not finite.
    """
    if paddle.device.get_device() == "cpu":
        order = order_by_words(dataset, captions)
        steps = max(1, math.ceil(len(captions) / (TEXTS_TOGETHER * batch_size)))
        batch_size = max(1, math.ceil(len(captions) / steps))
    else:
        order = np.argsort(-dataset.lengths[captions], kind="stable")  # if memory runs out, then at once
    sorted_emb = _encode(
        model,
        model.encode_text,
        dataset.text_batch,
        captions[order],
        batch_size,
        _stage(progress, "encode captions"),
        lambda caption: f"caption {caption + 1} ({dataset.captions[caption]!r})",
    )
    embeddings = np.empty_like(sorted_emb)
    embeddings[order] = sorted_emb
    return embeddings


def order_by_words(dataset: RetrievalDataset, captions: np.ndarray) -> np.ndarray:
    """Return the order [B] of `captions` in which those that begin with the same words are neighbours."""
    batch = dataset.text_batch(captions)
    present = np.arange(batch["token_ids"].shape[1]) < batch["text_len"][:, None]
    return np.lexsort(np.where(present, batch["token_ids"], -1).T[::-1])


def _encode(
    model: nn.Layer,
    encode: Callable[[dict[str, Tensor]], Tensor],
    make_batch: Callable[[np.ndarray], dict[str, np.ndarray]],
    items: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None],
    name_of: Callable[[int], str],
) -> np.ndarray:
    """Return the embeddings [items,D] of `items`, in their order."""
    embeddings = None
    with evaluation_mode(model), paddle.no_grad():
        for start in range(0, len(items), batch_size):
            chosen = items[start : start + batch_size]
            batch = {name: paddle.to_tensor(array) for name, array in make_batch(chosen).items()}
            encoded = encode(batch).numpy()  # [B,D]
            _check_finite(encoded, chosen, name_of)
            if embeddings is None:
                embeddings = np.empty((len(items), encoded.shape[1]), np.float32)
            embeddings[start : start + len(chosen)] = encoded
            progress(start + len(chosen), len(items))
    return embeddings


@contextlib.contextmanager
def evaluation_mode(model: nn.Layer) -> Iterator[None]:
    """Switch `model` to evaluation, and every layer back to the mode it was in."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def check_protocol(dataset: RetrievalDataset | PairDataset, split: str, folds: int) -> None:
    """Raise UserError for fewer images than folds, and for an image without a caption."""
    if folds > dataset.num_images:
        raise UserError(
            f"EVAL.FOLDS: expected at most one fold per image ({dataset.num_images} in {split}), got {folds}"
        )
    silent = np.setdiff1d(np.arange(dataset.num_images), dataset.caption_image)
    if len(silent):
        raise UserError(
            f"{split}: expected a caption for every image, image {dataset.image_ids[silent[0]]} "
            f"(row {silent[0] + 1}) has none; add one or leave the image out"
        )


def _check_finite(embeddings: np.ndarray, items: Sequence[int], name_of: Callable[[int], str]) -> None:
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise UserError(
            f"expected finite embeddings, got NaN or infinity for {name_of(int(items[broken[0]]))}: "
            "the weights are broken, as after training that diverged; use an earlier checkpoint"
        )


def folds_of_images(images: int, folds: int) -> np.ndarray:
    """Return the fold [images] of every image: slices in order, of equal size or one more."""
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(images), folds)])


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total) if progress else None
