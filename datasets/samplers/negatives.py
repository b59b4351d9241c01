"""Hard negative pairs: from short lists, from neighbouring images, or from the batch itself."""

from dataclasses import dataclass

import numpy as np

from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs, captions_by_image


@dataclass(frozen=True)
class HardNegatives:
    """Wrong captions and images that are hard to tell from the right ones; -1 stands for none.

    `captions_of_image` is int [images,k], `images_of_caption` is int [captions,k].
    """

    captions_of_image: np.ndarray
    images_of_caption: np.ndarray


def of_short_lists(
    dataset: PairDataset, captions_of_image: np.ndarray, images_of_caption: np.ndarray
) -> HardNegatives:
    """Return short lists without the entries that are right.

    `captions_of_image` (int [images,k]) are the captions that a dual encoder scores highest with each image,
    and `images_of_caption` (int [captions,k]) the images that it scores highest with each caption
    (`pairs.top_candidates` returns such lists). A caption is right for an image if it is the image's own or
    has the same tokens as one of them. Raises `ValueError` for lists of another data set.
    """
    _check_lists(captions_of_image, dataset.num_images, dataset.num_captions)
    _check_lists(images_of_caption, dataset.num_captions, dataset.num_images)
    images, captions = np.arange(dataset.num_images)[:, None], np.arange(dataset.num_captions)[:, None]
    wrong_captions = ~dataset.is_own_sentence(images, captions_of_image) & (captions_of_image >= 0)
    wrong_images = ~dataset.is_own_sentence(images_of_caption, captions) & (images_of_caption >= 0)
    return HardNegatives(
        np.where(wrong_captions, captions_of_image, -1), np.where(wrong_images, images_of_caption, -1)
    )


def neighbours(dataset: PairDataset, size: int) -> HardNegatives:
    """Return, as negatives, the other images of each group of `size` consecutive images, and their captions.

    Where neighbours differ little, as in Scenes' families or the frames of a film, only which object has
    which attribute, and where, tells them apart.
    """
    order, starts = captions_by_image(dataset.caption_image, dataset.num_images)
    group = np.arange(dataset.num_images) // size
    places = group[:, None] * size + np.arange(size)  # [images,size]
    images = np.where(places < dataset.num_images, places, -1)
    most = int(np.diff(starts).max(initial=0))
    columns = np.arange(most)
    owners = np.repeat(images, most, axis=1)  # [images,size x most]
    offsets = starts[owners] + np.tile(columns, size)
    there = (owners >= 0) & (offsets < starts[owners + 1])
    captions = np.where(there, order[np.minimum(offsets, len(order) - 1)], -1)
    return of_short_lists(dataset, captions, images[dataset.caption_image])


def hardest_in_batch(
    dataset: PairDataset, pairs: Pairs, scores: np.ndarray, random: np.random.Generator
) -> Pairs:
    """Replace the negatives of a training batch by the hardest that the batch itself has.

    `pairs` are B positives, then B negatives. `scores` [B,B] are of any model, with the positives' images as
    rows and their captions as columns. With probability 0.5, an image gets the wrong caption that scores
    highest with it, else a caption gets the wrong image; a pair keeps its negative if the batch has no wrong
    one for it. Raises `ValueError` for scores that are NaN or of another shape.
    """
    count = len(pairs) // 2
    images, captions = pairs.images[:count], pairs.captions[:count]
    if scores.shape != (count, count) or np.isnan(scores).any():
        raise ValueError(f"expected scores [{count},{count}] without NaN, got {list(scores.shape)}")
    wrong = ~dataset.is_own_sentence(images[:, None], captions)
    masked = np.where(wrong, scores, -np.inf)
    is_caption = random.random(count) < 0.5
    has_wrong = np.where(is_caption, wrong.any(axis=1), wrong.any(axis=0))
    new_images = np.where(is_caption, images, images[masked.argmax(axis=0)])
    new_captions = np.where(is_caption, captions[masked.argmax(axis=1)], captions)
    return Pairs(
        np.concatenate([images, np.where(has_wrong, new_images, pairs.images[count:])]),
        np.concatenate([captions, np.where(has_wrong, new_captions, pairs.captions[count:])]),
    )


def _check_lists(lists: np.ndarray, rows: int, bound: int) -> None:
    if lists.ndim != 2 or len(lists) != rows or lists.min(initial=-1) < -1 or lists.max(initial=-1) >= bound:
        raise ValueError(
            f"expected lists [{rows},k] of indices under {bound}, got {list(lists.shape)} with indices from "
            f"{lists.min(initial=-1)} to {lists.max(initial=-1)}"
        )
