"""The short lists of a dual encoder: the items with the highest scores for each image and each caption.

The lists are filled tile by tile, from the very scores that the dual encoder's ranks are counted from.
"""

from dataclasses import dataclass

import numpy as np

from datasets.pairs import top_candidates


@dataclass
class _Lists:
    """The best items so far of each query: `places` int64 [Q,k] in the gallery, -1 for none, and `scores`."""

    places: np.ndarray
    scores: np.ndarray


class ShortLists:
    """A `ScoreSink` that keeps the `k` best captions of each image and the `k` best images of each caption.

    Only images and captions with equal `image_fold` [images] and `caption_fold` [captions] compete. Captions
    with equal `sentence_ids` [captions] say the same; on the lists of images, the first of a fold stands for
    all. Items of equal score are listed in the order of the split.
    """

    def __init__(
        self, k: int, image_fold: np.ndarray, caption_fold: np.ndarray, sentence_ids: np.ndarray
    ) -> None:
        self._folds = image_fold, caption_fold
        of_sentence = np.unique(np.stack([caption_fold, sentence_ids]), axis=1, return_index=True)[1]
        self._listed = np.isin(np.arange(len(caption_fold)), of_sentence)
        self._of_image = _Lists(*_empty(len(image_fold), min(k, len(of_sentence))))
        self._of_caption = _Lists(*_empty(len(caption_fold), min(k, len(image_fold))))

    @property
    def captions_of_image(self) -> np.ndarray:
        """Return the best captions of each image, best first: int64 [images,k], -1 after the last."""
        return self._of_image.places

    @property
    def images_of_caption(self) -> np.ndarray:
        """Return the best images of each caption, best first: int64 [captions,k], -1 after the last."""
        return self._of_caption.places

    @property
    def image_scores(self) -> np.ndarray:
        """Return the scores [images,k] of `captions_of_image`."""
        return self._of_image.scores

    @property
    def caption_scores(self) -> np.ndarray:
        """Return the scores [captions,k] of `images_of_caption`."""
        return self._of_caption.scores

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Merge the `scores` [I,T] of the images and captions at these places into the lists."""
        rivals = self._folds[0][images, None] == self._folds[1][captions]
        if not rivals.all():
            scores = np.where(rivals, scores, -np.inf)
        listed = self._listed[captions]
        _merge(self._of_image, images, captions[listed], scores[:, listed])
        _merge(self._of_caption, captions, images, scores.T)


def _empty(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _merge(lists: _Lists, queries: np.ndarray, gallery: np.ndarray, scores: np.ndarray) -> None:
    """Merge the `scores` [Q,G] of `queries` with `gallery`, places of items, into the lists."""
    if not len(gallery):
        return
    k = lists.places.shape[1]
    may_enter = scores.max(axis=1) >= lists.scores[queries, -1]
    queries, scores = queries[may_enter], scores[may_enter]
    in_order = np.argsort(gallery)
    in_rows = np.ascontiguousarray(scores[:, in_order])
    columns = in_order[top_candidates(in_rows, k)]  # [q,<=k]
    new = np.take_along_axis(scores, columns, axis=1)
    places = np.concatenate([lists.places[queries], gallery[columns]], axis=1)
    together = np.concatenate([lists.scores[queries], new], axis=1)
    order = np.lexsort((places, -together), axis=1)[:, :k]
    best = np.take_along_axis(together, order, axis=1)
    lists.scores[queries] = best
    lists.places[queries] = np.where(np.isneginf(best), -1, np.take_along_axis(places, order, axis=1))
