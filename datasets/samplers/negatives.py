"""Wrong pairs that are hard to tell from right ones: of short lists, of neighbours, of the batch itself."""

from dataclasses import dataclass

import numpy as np

from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs, captions_by_image


@dataclass(frozen=True)
class HardNegatives:
    """Wrong captions and images that a dual encoder takes for right; -1 stands for none.

    captions_of_image: int [images,k]. images_of_caption: int [captions,k].
    """

    captions_of_image: np.ndarray
    images_of_caption: np.ndarray


def of_short_lists(
    dataset: PairDataset, captions_of_image: np.ndarray, images_of_caption: np.ndarray
) -> HardNegatives:
    """Leave out of a dual encoder's short lists what is right.

    captions_of_image: int [images,k], the captions that score highest with each image; images_of_caption: int
    [captions,k], the images that score highest with each caption (`pairs.top_candidates` makes them).
    Right is an image's own caption, and another's that says the same. Raises `ValueError` for lists of
    other data.
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
    """Take for wrong what belongs to the other images of a group of `size` images in a row of the split.

    Where neighbours differ little, as Scenes' families or the frames of a film, only who is what, and where,
    tells them apart.
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

    pairs: B positives, then B negatives. scores: [B,B] of any model, rows the positives' images, columns
    their captions. With probability 0.5, an image gets the wrong caption that scores highest with it, else a
    caption the wrong image; a pair for which the batch has none that is wrong keeps its negative. Raises
    `ValueError` for scores that are NaN or of another shape.
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
