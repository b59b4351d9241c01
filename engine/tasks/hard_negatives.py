"""The hardest negatives of a training batch, by the model that is being trained."""

import numpy as np
from paddle import nn

from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.samplers.pairs import harden_in_batch
from engine.evaluation.pair_scoring import score_pairs


def harden(
    model: nn.Layer,
    dataset: PairDataset,
    pairs: Pairs,
    share: float,
    random: np.random.Generator,
    batch_tokens: int,
) -> Pairs:
    """Replace a `share` of the negatives of a batch by what the model scores highest among its wrong pairs.

    pairs: B positives, then B negatives. Each different image is scored once with each different caption of
    the positives, without dropout and gradients; `batch_tokens`: see `pair_scoring.score_pairs`.
    """
    count = len(pairs) // 2
    images, rows = np.unique(pairs.images[:count], return_inverse=True)
    captions, columns = np.unique(pairs.captions[:count], return_inverse=True)
    crossed = Pairs(np.repeat(images, len(captions)), np.tile(captions, len(images)))
    scores = score_pairs(model, dataset, crossed, batch_tokens).reshape(len(images), len(captions))
    hard = harden_in_batch(dataset, pairs, scores[rows][:, columns], random)
    taken = np.concatenate([np.zeros(count, bool), random.random(count) < share])
    return Pairs(np.where(taken, hard.images, pairs.images), np.where(taken, hard.captions, pairs.captions))
