"""The parts that the evaluations of all kinds of model share: folds, the protocol of a result, checks."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import nn

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.certificates.sides import Side
from engine.evaluation.result import Result
from engine.ranking.counter import TIE_RULES, TiedRanks
from engine.ranking.metrics import RECALLS, summarize
from models.kernels.precision import FLOAT32, of_inference


def protocol_of(
    split: str, counts: dict[str, int | str | list[int]], tie_rule: str, measure: str
) -> dict[str, int | str | list[int]]:
    """Return the protocol of a result: `split`, the numbers of images and so on, tie rule and similarity.

    Where layers multiplied in bfloat16, it says so.
    """
    rule = {"tie_rule": tie_rule, "tie_rule_text": TIE_RULES[tie_rule]}
    lowered = {} if of_inference() == FLOAT32 else {"precision": of_inference()}
    return {"split": split, **counts, **rule, "measure": measure, **lowered}


def check_protocol(dataset: RetrievalDataset | PairDataset, split: str, folds: int) -> None:
    """Raise UserError for fewer images than folds, and for an image without a caption.

    Where a file says what is right, an image needs no caption of its own.
    """
    if folds > dataset.num_images:
        raise UserError(
            f"EVAL.FOLDS: expected at most one fold per image ({dataset.num_images} in {split}), got {folds}"
        )
    silent = np.setdiff1d(np.arange(dataset.num_images), dataset.caption_image)
    if len(silent) and dataset.relevance.rule == "image id":
        raise UserError(
            f"{split}: expected a caption for every image, image {dataset.image_ids[silent[0]]} "
            f"(row {silent[0] + 1}) has none; add one or leave the image out"
        )


def make_result(
    dataset: RetrievalDataset | PairDataset,
    split: str,
    ranks: tuple[TiedRanks, TiedRanks],
    image_fold: np.ndarray,
    tie_rule: str,
    distinct_sentences: int,
    measure: str,
    sentence: np.ndarray | None = None,
) -> Result:
    """Return the result of `ranks`: those of the images and those of the captions.

    `image_fold` [images] is ascending; the metrics are means over the folds. `sentence` [captions], equal for
    captions that are one sentence, lets the result say how many sentences describe several images. Queries
    without a right item in their fold are left out, and counted in the protocol. Raises UserError for a fold
    without any query.
    """
    caption_fold, folds = image_fold[dataset.caption_image], int(image_fold[-1]) + 1
    relevance = dataset.relevance.within(image_fold, caption_fold)
    fold_images = np.bincount(image_fold, minlength=folds)
    fold_captions = np.bincount(caption_fold, minlength=folds)
    sides = {
        "i2t_": Side.of(
            ranks[0],
            np.arange(dataset.num_images),
            image_fold,
            relevance.of_images,
            fold_captions[image_fold],
            RECALLS,
        ),
        "t2i_": Side.of(
            ranks[1],
            dataset.caption_image,
            caption_fold,
            relevance.of_captions,
            fold_images[caption_fold],
            RECALLS,
        ),
    }
    for direction, side in zip(("image", "caption"), sides.values(), strict=True):
        empty = np.setdiff1d(np.arange(folds), side.fold)
        if len(empty):
            where = f" in fold {empty[0] + 1} of {folds}" if folds > 1 else ""
            raise UserError(f"{split}: no {direction} has a right item{where}: check DATASET.RELEVANCE")
    per_fold = [
        summarize(*(side.ranks(tie_rule)[side.fold == fold] for side in sides.values()))
        for fold in range(folds)
    ]
    metrics = {name: float(np.mean([fold[name] for fold in per_fold])) for name in per_fold[0]}
    left_out = [count - len(side.query) for count, side in zip(relevance.shape, sides.values(), strict=True)]
    counts = {
        "images": dataset.num_images,
        "captions": dataset.num_captions,
        "distinct_sentences": distinct_sentences,
        "relevance": relevance.rule,
        "left_out": dict(zip(("images", "captions"), left_out, strict=True)),
        "folds": folds,
        "fold_images": fold_images.tolist(),
        "fold_captions": fold_captions.tolist(),
    }
    by_rule = [side.by(tie_rule) for side in ranks]
    protocol = protocol_of(split, counts, tie_rule, measure)
    shared = (
        0 if sentence is None or relevance.rule != "image id" else _shared(sentence, dataset.caption_image)
    )
    return Result(metrics, protocol, per_fold if folds > 1 else [], *by_rule, sides, ranks, shared)


def _shared(sentence: np.ndarray, image: np.ndarray) -> int:
    """Return how many sentences describe several images, by each caption's sentence and image [captions]."""
    of_images = np.unique(np.stack([sentence, image]), axis=1)[0]
    return int((np.bincount(of_images) > 1).sum())


def check_finite(what: str, values: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Raise UserError for NaN or infinity among `values` [n] or [n,D], a model's embeddings or scores.

    `what` is "embeddings" or "scores". `name_of` returns the name of the image, caption or pair of a row.
    """
    broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(broken):
        raise UserError(
            f"expected finite {what}, got NaN or infinity for {name_of(int(broken[0]))}: "
            "the weights are broken, as after training that diverged; use an earlier checkpoint"
        )


@contextlib.contextmanager
def evaluation_mode(model: nn.Layer) -> Iterator[None]:
    """Switch `model` to evaluation mode for a `with` block; then restore the mode of every layer."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def tensors_of(batch: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    """Return the named arrays of a batch as tensors."""
    return {name: paddle.to_tensor(array) for name, array in batch.items()}
