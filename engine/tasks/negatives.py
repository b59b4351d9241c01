"""Hard negatives: wrong pairs with high scores from the model in training or from a trained dual encoder."""

from pathlib import Path

import numpy as np
from paddle import nn

from config.errors import UserError
from config.families import FAMILIES, names_of
from config.load import config_of_checkpoint
from datasets.build.dual import build_dataset
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.samplers.negatives import HardNegatives, hardest_in_batch, of_short_lists
from engine.evaluation.dual import Encoded, encode
from engine.evaluation.ensemble import check_same_pairs
from engine.evaluation.pair_scoring import score_pairs
from engine.ranking.short_lists import ShortLists
from engine.tasks.loading import load_trained

TILE_IMAGES, TILE_CAPTIONS = 512, 4096


def mined(
    checkpoint: str | Path, dataset: PairDataset, top: int, shared: str | Path | None = None
) -> HardNegatives:
    """Return the wrong pairs of `dataset` that the dual encoder at `checkpoint` scores highest.

    `top` is the number of captions that are listed for each image, and of images for each caption, before the
    right ones are left out. All processes of a job call this and share the encoding; `shared` is explained at
    `dual.encode`. Memory holds the embeddings and one tile of scores. Raises UserError for a checkpoint
    outside a run, one of another kind of model, and one whose data set has other images or captions.
    """
    every_caption = ["INPUT.LONG_CAPTIONS=cut", "DATASET.DISTINCT_CAPTIONS=false"]
    cfg = config_of_checkpoint(str(checkpoint), every_caption, "NEGATIVES.DUAL")
    if FAMILIES[cfg.MODEL.NAME].kind != "dual":
        raise UserError(
            f"NEGATIVES.DUAL: expected the checkpoint of a dual encoder ({', '.join(names_of('dual'))}), got "
            f"{checkpoint}, of a run of {cfg.MODEL.NAME}"
        )
    trained = load_trained(cfg)
    data = build_dataset(cfg, dataset.name, trained.words, training=True)
    check_same_pairs(dataset, "the pairs", data, str(checkpoint))
    encoded = encode(trained.model, data, cfg.EVAL.BATCH_SIZE, shared=shared)
    lists = short_lists(encoded, dataset.sentence_ids, top)
    return of_short_lists(dataset, lists.captions_of_image, lists.images_of_caption)


def short_lists(encoded: Encoded, sentence_ids: np.ndarray, top: int) -> ShortLists:
    """Return the `top` captions that score highest with each image, and the `top` images for each caption.

    Captions with equal `sentence_ids` [captions] say the same, and one of them is listed. Scores are made
    tile by tile.
    """
    num_images, num_captions = len(encoded.image), len(encoded.sentence)
    lists = ShortLists(top, np.zeros(num_images, int), np.zeros(num_captions, int), sentence_ids)
    for image in range(0, num_images, TILE_IMAGES):
        images = np.arange(image, min(image + TILE_IMAGES, num_images))
        for caption in range(0, num_captions, TILE_CAPTIONS):
            captions = np.arange(caption, min(caption + TILE_CAPTIONS, num_captions))
            scores = encoded.similarity(encoded.image[images], encoded.text[encoded.sentence[captions]])
            lists.write(images, captions, scores)
    return lists


def in_batch(
    model: nn.Layer,
    dataset: PairDataset,
    pairs: Pairs,
    share: float,
    random: np.random.Generator,
    batch_tokens: int,
) -> Pairs:
    """Replace a `share` of the negatives of a batch by the wrong pairs that the model scores highest.

    `pairs` holds B positives, then B negatives. Each distinct image of the positives is scored with each of
    their distinct captions, without dropout or gradients. `batch_tokens` is explained at
    `pair_scoring.score_pairs`.
    """
    count = len(pairs) // 2
    images, rows = np.unique(pairs.images[:count], return_inverse=True)
    captions, columns = np.unique(pairs.captions[:count], return_inverse=True)
    crossed = Pairs(np.repeat(images, len(captions)), np.tile(captions, len(images)))
    scores = score_pairs(model, dataset, crossed, batch_tokens).reshape(len(images), len(captions))
    hard = hardest_in_batch(dataset, pairs, scores[rows][:, columns], random)
    taken = np.concatenate([np.zeros(count, bool), random.random(count) < share])
    return Pairs(np.where(taken, hard.images, pairs.images), np.where(taken, hard.captions, pairs.captions))
