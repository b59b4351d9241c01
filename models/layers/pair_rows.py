"""Which rows a transformer has for a batch of pairs, and which of them begin alike."""

from dataclasses import dataclass

import numpy as np
from paddle import Tensor

from models.layers.sequences import Sequences, real_places

REGION = 2  # the kind of a region's row; those of text have their segment, 0 or 1


@dataclass(frozen=True)
class PairRows:
    """The rows of a batch, each pair's text before its image's regions, and what they begin as.

    A word begins alike wherever it stands at the same position of the same segment, a region in all pairs of
    its image. words, positions, segments: int64 [T], of the different tokens. regions: int64 [R], the images'
    regions by their places in the padded batch, I x R. order: int64 [P], which one of the tokens, then of the
    regions, each row begins as.
    """

    words: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    regions: np.ndarray
    order: np.ndarray
    sequences: Sequences


def pair_rows(batch: dict[str, Tensor], sees_regions: bool, attends: np.ndarray | None) -> PairRows:
    """Return the rows of a batch, as `Bert.encode` describes it; of its texts alone unless `sees_regions`."""
    text_len, width = batch["text_len"].numpy(), batch["token_ids"].shape[1]
    text = real_places(text_len, width)  # [Pt] among B x T
    ids, segments = (batch[name].numpy().reshape(-1)[text] for name in ("token_ids", "segment_ids"))
    keys = (ids * width + text % width) * REGION + segments
    _, one, order = np.unique(keys, return_index=True, return_inverse=True)
    different = ids[one], text[one] % width, segments[one]
    kinds, length, places = segments, text_len, np.empty(0, np.int64)
    if sees_regions:
        count, num_regions = batch["regions"].shape[1], batch["num_regions"].numpy()
        image_row = batch["image_row"].numpy() if "image_row" in batch else np.arange(len(text_len))
        places = real_places(num_regions, count)
        starts = len(one) + np.cumsum(num_regions) - num_regions  # [I]
        seen = real_places(num_regions[image_row], count)  # [Pr] among B x R
        order = np.concatenate([order, starts[image_row[seen // count]] + seen % count])
        kinds = np.concatenate([kinds, np.full(len(seen), REGION)])
        by_pair = np.argsort(np.concatenate([text // width, seen // count]), kind="stable")
        order, kinds, length = order[by_pair], kinds[by_pair], text_len + num_regions[image_row]
    sequences = Sequences(length, None if attends is None else kinds, attends)
    return PairRows(*different, places, order, sequences)
