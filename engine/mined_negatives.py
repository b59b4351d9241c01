"""Wrong captions and images that a trained dual encoder takes for right."""

from pathlib import Path

import numpy as np

from config.load import configs_of_checkpoints
from datasets.build import build_dataset
from datasets.pair_dataset import PairDataset
from datasets.pair_sampler import HardNegatives, mine_hard_negatives
from datasets.pairs import top_candidates
from engine.build import load_trained
from engine.ensemble import check_same_pairs
from engine.evaluator import Encoded, encode

BLOCK_ROWS = 512


def mine_with_dual(checkpoint: str | Path, dataset: PairDataset, top: int) -> HardNegatives:
    """Return what the dual encoder at `checkpoint` scores highest on the images and captions of `dataset`.

    top: captions of an image, and images of a caption; what is right among them is left out. Memory is that
    of the embeddings and of a block of scores. Raises UserError for a checkpoint outside a run, one of a
    cross encoder, and one that was trained on other images or captions.
    """
    cfg = configs_of_checkpoints([str(checkpoint)])[0]
    model, vocabulary, _, _ = load_trained(cfg)
    data = build_dataset(cfg, dataset.name, vocabulary, training=False)
    check_same_pairs(dataset, "the pairs", data, str(checkpoint))
    encoded = encode(model, data, cfg.EVAL.BATCH_SIZE)
    return mine_hard_negatives(dataset, *top_lists(encoded, top))


def top_lists(encoded: Encoded, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the captions that score highest with each image, and the images with each caption.

    int64 [images, min(top, captions)] and [captions, min(top, images)].
    """
    image, text, similarity = encoded.image, encoded.text, encoded.similarity
    captions = [
        top_candidates(similarity(image[start : start + BLOCK_ROWS], text)[:, encoded.sentence], top)
        for start in range(0, len(image), BLOCK_ROWS)
    ]
    images = [
        top_candidates(np.ascontiguousarray(similarity(image, text[start : start + BLOCK_ROWS]).T), top)
        for start in range(0, len(text), BLOCK_ROWS)
    ]
    return np.concatenate(captions), np.concatenate(images)[encoded.sentence]
