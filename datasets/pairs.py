"""Pairs of an image and a caption: which ones an evaluation scores, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """Pairs of an image and a caption, as indices in a data set: int64 [P] each."""

    images: np.ndarray
    captions: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: slice | np.ndarray) -> "Pairs":
        return Pairs(self.images[places], self.captions[places])

    def batches(self, batch_size: int) -> list["Pairs"]:
        """Return the pairs in order, in batches of `batch_size`."""
        return [self[start : start + batch_size] for start in range(0, len(self), batch_size)]


class CrossPairs:
    """All pairs of some images with some captions, in blocks that any process can compute from their number.

    `images` and `captions` are distinct indices. `image_lengths` and `caption_lengths` (int) are the lengths
    of the same, in units that can be added (tokens and regions): pairs that follow each other have similar
    lengths. Each image is paired with all captions before the next one, so that a batch has one image or few.

    `len` is the number of blocks of `block_pairs` pairs. A block that was scored need not be scored again,
    and processes that take every n-th block share the work. Only one block is in memory at a time.
    """

    def __init__(
        self,
        images: np.ndarray,
        captions: np.ndarray,
        image_lengths: np.ndarray,
        caption_lengths: np.ndarray,
        block_pairs: int,
    ) -> None:
        self._images = np.asarray(images)[np.argsort(image_lengths, kind="stable")]
        self._captions = np.asarray(captions)[np.argsort(caption_lengths, kind="stable")]
        self._block_pairs = block_pairs
        self.num_pairs = len(images) * len(captions)

    def __len__(self) -> int:
        return -(-self.num_pairs // self._block_pairs)

    def block(self, index: int) -> Pairs:
        """Return the pairs of a block, in the order in which they are cut into batches."""
        start = index * self._block_pairs
        rows, columns = np.divmod(
            np.arange(start, min(start + self._block_pairs, self.num_pairs)), len(self._captions)
        )
        # Captions are traversed back and forth, so that those of similar length meet where the image changes.
        columns = np.where(rows % 2, len(self._captions) - 1 - columns, columns)
        return Pairs(self._images[rows], self._captions[columns])


class ListedPairs:
    """Candidate pairs, each once, in blocks like those of `CrossPairs`.

    `pairs` may be in any order, and repeated ones count once. `image_lengths` and `caption_lengths` are those
    of all images and captions of the data set.
    """

    def __init__(
        self, pairs: Pairs, image_lengths: np.ndarray, caption_lengths: np.ndarray, block_pairs: int
    ) -> None:
        width = len(caption_lengths)
        keys = np.unique(pairs.images.astype(np.int64) * width + pairs.captions)
        images, captions = np.divmod(keys, width)
        place = np.empty(len(image_lengths), dtype=np.int64)
        place[np.argsort(image_lengths, kind="stable")] = np.arange(len(image_lengths))
        back_and_forth = np.where(place[images] % 2, -1, 1) * caption_lengths[captions]
        order = np.lexsort((back_and_forth, place[images]))
        self._pairs = Pairs(images[order], captions[order])
        self._block_pairs = block_pairs
        self.num_pairs = len(keys)

    def __len__(self) -> int:
        return -(-self.num_pairs // self._block_pairs)

    def block(self, index: int) -> Pairs:
        """Return the pairs of a block, in the order in which they are cut into batches."""
        return self._pairs[index * self._block_pairs : (index + 1) * self._block_pairs]


class JoinedPairs:
    """The blocks of several sets of pairs, one set after another."""

    def __init__(self, parts: Sequence[CrossPairs | ListedPairs]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.num_pairs = sum(part.num_pairs for part in parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def block(self, index: int) -> Pairs:
        """Return the pairs of a block, in the order in which they are cut into batches."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part].block(index - int(self._ends[part]) + len(self._parts[part]))


PairBlocks = CrossPairs | ListedPairs | JoinedPairs


def candidate_pairs(captions_of_image: np.ndarray | None, images_of_caption: np.ndarray | None) -> Pairs:
    """Return the pairs of short lists in one or both directions, one after the other, repetitions included.

    `captions_of_image` (int [images,k]) are the captions that a dual encoder proposes for each image, and
    `images_of_caption` (int [captions,k]) the images that it proposes for each caption; -1 stands for none.
    """
    parts = []
    if captions_of_image is not None:
        rows, columns = np.nonzero(captions_of_image >= 0)
        parts.append(Pairs(rows, captions_of_image[rows, columns]))
    if images_of_caption is not None:
        rows, columns = np.nonzero(images_of_caption >= 0)
        parts.append(Pairs(images_of_caption[rows, columns], rows))
    return Pairs(
        np.concatenate([part.images for part in parts]), np.concatenate([part.captions for part in parts])
    )


def top_candidates(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k highest scores, best first; of equal scores, the lowest columns.

    `scores` is [Q,G]. Returns int64 [Q, min(k, G)]. Raises ValueError if a score is NaN.
    """
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])
        raise ValueError(f"scores of row {row} hold NaN, expected numbers")
    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), dtype=np.int64)
    least = np.partition(scores, -k, axis=1)[:, -k, None]  # [Q,1]
    above, equal = scores > least, scores == least
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def captions_by_image(caption_image: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the captions sorted by image, and each image's first place: int64 [captions], [images + 1]."""
    counts = np.bincount(caption_image, minlength=num_images)
    return np.argsort(caption_image, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


def folds_of_images(images: int, folds: int) -> np.ndarray:
    """Return the fold [images] of every image: consecutive slices whose sizes differ by one at most."""
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(images), folds)])
