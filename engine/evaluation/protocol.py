"""The parts that the evaluations of all kinds of model share: folds, the protocol of a result, checks."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import nn

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.result import Result
from engine.ranking.counter import TIE_RULES
from engine.ranking.metrics import summarize
from engine.ranking.ranks import RanksBothWays


def protocol_of(
    split: str, counts: dict[str, int | str | list[int]], tie_rule: str, measure: str
) -> dict[str, int | str | list[int]]:
    """Return the protocol of a result: `split`, the numbers of images and so on, tie rule and similarity."""
    rule = {"tie_rule": tie_rule, "tie_rule_text": TIE_RULES[tie_rule]}
    return {"split": split, **counts, **rule, "measure": measure}


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


def folds_of_images(images: int, folds: int) -> np.ndarray:
    """Return the fold [images] of every image: consecutive slices whose sizes differ by one at most."""
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(images), folds)])


def make_result(
    dataset: RetrievalDataset | PairDataset,
    split: str,
    ranks: RanksBothWays,
    image_fold: np.ndarray,
    tie_rule: str,
    distinct_sentences: int,
    measure: str,
) -> Result:
    """Return the result of `ranks`: those of the images and those of the captions.

    `image_fold` [images] is ascending; the metrics are means over the folds.
    """
    caption_fold, folds = image_fold[dataset.caption_image], int(image_fold[-1]) + 1
    per_fold = [
        summarize(ranks[0][image_fold == fold], ranks[1][caption_fold == fold]) for fold in range(folds)
    ]
    metrics = {name: float(np.mean([fold[name] for fold in per_fold])) for name in per_fold[0]}
    counts = {
        "images": dataset.num_images,
        "captions": dataset.num_captions,
        "distinct_sentences": distinct_sentences,
        "folds": folds,
        "fold_images": np.bincount(image_fold).tolist(),
        "fold_captions": np.bincount(caption_fold).tolist(),
    }
    return Result(
        metrics, protocol_of(split, counts, tie_rule, measure), per_fold if folds > 1 else [], *ranks
    )


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
