"""Ragged batches, on which exports err: shortest and longest rows in mixed order, one row and 33."""

from collections.abc import Callable, Iterable

import numpy as np

from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset

_LONG_TEXT = 64  # tokens: longer than most captions
_BATCH = 33

Batch = dict[str, np.ndarray]
Encode = Callable[[Batch], np.ndarray]


def largest_difference(ours: Encode, theirs: Encode, batches: Iterable[Batch]) -> float:
    """Return the largest difference of what two functions make of the same batches."""
    return max(float(np.abs(ours(batch) - theirs(batch)).max()) for batch in batches)


def ragged_texts(vocabulary: int, longest: int, limit: int) -> list[Batch]:
    """Return batches of random token ids of 1 to `longest` tokens, or to `_LONG_TEXT` if `limit` allows it.

    `limit` is the most tokens that the model reads, 0 for any number.
    """
    longest = max(longest, min(limit, _LONG_TEXT) if limit else _LONG_TEXT)
    random = np.random.default_rng(0)
    return [
        {"token_ids": random.integers(vocabulary, size=(len(lengths), lengths.max())), "text_len": lengths}
        for lengths in _lengths(longest, random)
    ]


def ragged_images(dataset: RetrievalDataset) -> list[Batch]:
    """Return batches of images of a split, in mixed order, with all of their regions and with fewer."""
    random = np.random.default_rng(1)
    batches = [dataset.image_batch(random.integers(dataset.num_images, size=size)) for size in (1, _BATCH)]
    for batch in [each for each in batches if "regions" in each]:
        counts = batch["num_regions"]
        fewer = random.integers(1, counts + 1)
        fewer[:1] = 1
        batches.append({"regions": batch["regions"][:, : fewer.max()], "num_regions": fewer})
    return batches


def ragged_pairs(dataset: PairDataset, vocabulary: int) -> list[Batch]:
    """Return batches of random tokens in two segments, with images that have 1 to all of their regions."""
    random = np.random.default_rng(2)
    batches = []
    for lengths in _lengths(dataset.max_seq_len, random):
        shape = len(lengths), lengths.max()
        image = dataset.image_batch(random.integers(dataset.num_images, size=len(lengths)))
        counts = random.integers(1, image["num_regions"] + 1)
        counts[-1] = image["num_regions"][-1]
        batches.append(
            {
                "token_ids": random.integers(vocabulary, size=shape),
                "segment_ids": (np.arange(shape[1]) >= random.integers(1, lengths + 1)[:, None]).astype(
                    np.int64
                ),
                "text_len": lengths,
                "regions": image["regions"][:, : counts.max()],
                "num_regions": counts,
            }
        )
    return batches


def _lengths(longest: int, random: np.random.Generator) -> list[np.ndarray]:
    mixed = random.integers(1, longest + 1, size=_BATCH)
    mixed[[3, 20]] = 1, longest
    return [np.array([1]), np.array([longest]), mixed]
