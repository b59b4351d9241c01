"""The short lists of a dual encoder: what scores highest with each image and each caption.

They are taken from the very scores that its ranks are counted from, tile by tile as these are made.
"""

from dataclasses import dataclass

import numpy as np

from datasets.pairs import top_candidates


@dataclass
class _Lists:
    """The best so far of each query: `places` int64 [Q,k] in the gallery, -1 for none, and `scores` [Q,k]."""

    places: np.ndarray
    scores: np.ndarray


class ShortLists:
    """Take scores piece by piece (a `ranking.ScoreSink`) and keep each side's `k` best of its own fold.

    `image_fold` [images] and `caption_fold` [captions]: only equal ones compete. `sentence_ids` [captions]:
    captions with equal ones say the same, and the first of a fold stands for all on the lists of images. Of
    equal scores the first in the split comes first.
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
        """The best captions of each image, best first: int64 [images,k], -1 behind the last."""
        return self._of_image.places

    @property
    def images_of_caption(self) -> np.ndarray:
        """The best images of each caption, best first: int64 [captions,k], -1 behind the last."""
        return self._of_caption.places

    @property
    def image_scores(self) -> np.ndarray:
        """The scores [images,k] of `captions_of_image`."""
        return self._of_image.scores

    @property
    def caption_scores(self) -> np.ndarray:
        """The scores [captions,k] of `images_of_caption`."""
        return self._of_caption.scores

    def write(self, images: np.ndarray, captions: np.ndarray, scores: np.ndarray) -> None:
        """Take `scores` [I,T] of the images and captions at these places."""
        rivals = self._folds[0][images, None] == self._folds[1][captions]
        if not rivals.all():
            scores = np.where(rivals, scores, -np.inf)
        listed = self._listed[captions]
        _merge(self._of_image, images, captions[listed], scores[:, listed])
        _merge(self._of_caption, captions, images, scores.T)


def _empty(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _merge(lists: _Lists, queries: np.ndarray, gallery: np.ndarray, scores: np.ndarray) -> None:
    """Take the `scores` [Q,G] of these queries with these places of the gallery into their lists."""
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
