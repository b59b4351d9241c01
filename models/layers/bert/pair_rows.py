"""The rows that a transformer has for a batch of pairs, and the distinct rows among them before layer 1."""

from dataclasses import dataclass

import numpy as np
from paddle import Tensor

from models.layers.bert.sequences import Sequences, real_places

REGION = 2  # the kind of a region's row; the kind of a token's row is its segment, 0 or 1


@dataclass(frozen=True)
class PairRows:
    """The P rows of a batch, each pair's text before its image's regions, and the distinct ones among them.

    A word has the same embedding wherever it stands at the same position of the same segment, a region in all
    pairs of its image. `words`, `positions` and `segments` (int64 [T]) describe the distinct tokens.
    `regions` (int64 [R]) are the regions of the images, as indices into the I x R of the padded batch.
    `origin` (int64 [P]) is the index of each row's embedding among the distinct tokens followed by the
    regions.
    """

    words: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    regions: np.ndarray
    origin: np.ndarray
    sequences: Sequences


def pair_rows(batch: dict[str, Tensor], sees_regions: bool, attends: np.ndarray | None) -> PairRows:
    """Return the rows of a `batch` as `Bert.encode` takes it; without `sees_regions`, of its texts alone."""
    text_len, width = batch["text_len"].numpy(), batch["token_ids"].shape[1]
    text = real_places(text_len, width)  # [Pt] among B x T
    ids, segments = (batch[name].numpy().reshape(-1)[text] for name in ("token_ids", "segment_ids"))
    keys = (ids * width + text % width) * REGION + segments
    _, one, origin = np.unique(keys, return_index=True, return_inverse=True)
    distinct = ids[one], text[one] % width, segments[one]
    kinds, length, places = segments, text_len, np.empty(0, np.int64)
    if sees_regions:
        count, num_regions = batch["regions"].shape[1], batch["num_regions"].numpy()
        image_row = batch["image_row"].numpy() if "image_row" in batch else np.arange(len(text_len))
        places = real_places(num_regions, count)
        starts = len(one) + np.cumsum(num_regions) - num_regions  # [I]
        seen = real_places(num_regions[image_row], count)  # [Pr] among B x R
        origin = np.concatenate([origin, starts[image_row[seen // count]] + seen % count])
        kinds = np.concatenate([kinds, np.full(len(seen), REGION)])
        by_pair = np.argsort(np.concatenate([text // width, seen // count]), kind="stable")
        origin, kinds, length = origin[by_pair], kinds[by_pair], text_len + num_regions[image_row]
    sequences = Sequences(length, None if attends is None else kinds, attends)
    return PairRows(*distinct, places, origin, sequences)
