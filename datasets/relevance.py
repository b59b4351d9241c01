"""Which captions are right for which images: a map that ranks, losses, samplers and searches share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Relevance:
    """The P right pairs of `shape` = (images, captions), sorted by image, then by caption; none repeats.

    `images` and `captions` are indices, int64 [P]. `grades` [P] say how right each pair is, above 0; None:
    all alike. `rule` names where the pairs come from, for the protocol of a result.
    """

    shape: tuple[int, int]
    images: np.ndarray
    captions: np.ndarray
    grades: np.ndarray | None = None
    rule: str = "image id"

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        images: Sequence[int],
        captions: Sequence[int],
        grades: Sequence[float] | None = None,
        rule: str = "image id",
    ) -> "Relevance":
        """Return the map of pairs in any order; of repeated ones the first counts."""
        images, captions = np.asarray(images, np.int64), np.asarray(captions, np.int64)
        keys, first = np.unique(images * max(1, shape[1]) + captions, return_index=True)
        graded = None if grades is None else np.asarray(grades, np.float64)[first]
        return cls(shape, images[first], captions[first], graded, rule)

    @classmethod
    def of_groups(cls, image_groups: np.ndarray, caption_groups: np.ndarray) -> "Relevance":
        """Return the map in which an image and a caption of equal groups (integers) are right."""
        order = np.argsort(caption_groups, kind="stable")
        ordered = caption_groups[order]
        low, high = (np.searchsorted(ordered, image_groups, side) for side in ("left", "right"))
        images, places = _ranges(low, high)
        return cls((len(image_groups), len(caption_groups)), images, order[places])

    @cached_property
    def starts(self) -> np.ndarray:
        """Return where the pairs of each image begin, and the end of the last: int64 [images + 1]."""
        return np.concatenate([[0], np.cumsum(self.of_images)])

    @cached_property
    def of_images(self) -> np.ndarray:
        """Return the number of right captions of each image, int64 [images]."""
        return np.bincount(self.images, minlength=self.shape[0])

    @cached_property
    def of_captions(self) -> np.ndarray:
        """Return the number of right images of each caption, int64 [captions]."""
        return np.bincount(self.captions, minlength=self.shape[1])

    @cached_property
    def turned(self) -> "Relevance":
        """Return the same map with captions as rows: its `images` are captions, and the reverse."""
        order = np.lexsort((self.images, self.captions))
        grades = None if self.grades is None else self.grades[order]
        return Relevance(self.shape[::-1], self.captions[order], self.images[order], grades, self.rule)

    def among(self, images: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column [n] of the right pairs of distinct `images` [I] and `captions` [T]."""
        rows, places = _ranges(self.starts[images], self.starts[images + 1])
        column_of = np.full(self.shape[1], -1, np.int64)
        column_of[captions] = np.arange(len(captions))
        columns = column_of[self.captions[places]]
        there = columns >= 0
        return rows[there], columns[there]

    def are_right(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return whether pairs are right: bool, broadcast; -1 stands for no image or caption."""
        return self.numbers_of(images, captions) >= 0

    def numbers_of(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return the numbers of pairs in this map, int64, broadcast; -1 for one that is not right."""
        keys = np.asarray(images) * self.shape[1] + captions
        if not len(self._keys):
            return np.full(keys.shape, -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = (self._keys[place] == keys) & (np.asarray(images) >= 0) & (np.asarray(captions) >= 0)
        return np.where(there, place, -1)

    def within(self, image_fold: np.ndarray, caption_fold: np.ndarray) -> "Relevance":
        """Return the pairs of an image and a caption that compete, being of one fold."""
        return self._only(image_fold[self.images] == caption_fold[self.captions])

    def with_captions(self, captions: np.ndarray) -> "Relevance":
        """Return the map of the same images with some of the captions, in the order of `captions` [T]."""
        rows, columns = self.among(np.arange(self.shape[0]), np.asarray(captions))
        grades = None
        if self.grades is not None:
            kept = np.searchsorted(self._keys, rows * self.shape[1] + np.asarray(captions)[columns])
            grades = self.grades[kept]
        return Relevance.of((self.shape[0], len(captions)), rows, columns, grades, self.rule)

    def with_images(self, count: int) -> "Relevance":
        """Return the map of the first `count` images with the same captions."""
        cut = self._only(self.images < count)
        return Relevance((count, self.shape[1]), cut.images, cut.captions, cut.grades, self.rule)

    def lists(self) -> np.ndarray:
        """Return the right captions of each image, int64 [images,most], padded with -1."""
        width = int(self.of_images.max(initial=0))
        found = np.full((self.shape[0], width), -1, np.int64)
        found[self.images, np.arange(len(self.images)) - self.starts[self.images]] = self.captions
        return found

    @cached_property
    def _keys(self) -> np.ndarray:
        return self.images * self.shape[1] + self.captions

    def _only(self, kept: np.ndarray) -> "Relevance":
        grades = None if self.grades is None else self.grades[kept]
        return Relevance(self.shape, self.images[kept], self.captions[kept], grades, self.rule)


def own_captions(caption_image: np.ndarray, images: int) -> Relevance:
    """Return the map in which each caption is right for its own image, `caption_image` [captions], alone.

    A caption of the image -1 is right for none.
    """
    captions = np.flatnonzero(caption_image >= 0)
    return Relevance.of((images, len(caption_image)), caption_image[captions], captions)


def _ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each member of the ranges from `low` [N] to `high` [N], and the members: [n] each."""
    counts = high - low
    rows = np.repeat(np.arange(len(low)), counts)
    return rows, np.arange(len(rows)) + np.repeat(low - (np.cumsum(counts) - counts), counts)
