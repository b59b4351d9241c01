"""The pairs that a cross encoder trains on: each caption with its image, and something wrong beside it."""

from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs, captions_by_image
from datasets.samplers.batches import BatchSampler, FinishedPart


@dataclass(frozen=True)
class HardNegatives:
    """Wrong captions and images that a dual encoder takes for right; -1 stands for none.

    captions_of_image: int [images,k]. images_of_caption: int [captions,k].
    """

    captions_of_image: np.ndarray
    images_of_caption: np.ndarray


def mine_hard_negatives(
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


def neighbour_negatives(dataset: PairDataset, size: int) -> HardNegatives:
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
    return mine_hard_negatives(dataset, captions, images[dataset.caption_image])


class PairSampler:
    """The training batches of an epoch for one of `world_size` processes.

    For each caption there is one pair with its image and one negative pair: with probability 0.5, its image
    with any caption of any other image, else the caption with any other image (Oscar, arXiv 2004.06165). A
    batch has `batch_size` captions a process, first the positive pairs, then the negative pairs in the same
    order.

    count: negative pairs of each caption, all of them with its image or all with the caption; a batch has
    the first ones of all captions, then the second ones, and so on.

    hard: take the negative from these lists, where they have any, with probability `hard_share`, from the
    epoch `hard_from` on.

    Everything follows from (seed, epoch), as `BatchSampler` has it, which also shares the captions among
    processes and, with `bucket`, brings pairs of like length together: an interrupted epoch goes on at an
    index of `batches(epoch)`. Raises `UserError` where no second image has captions.
    """

    def __init__(
        self,
        dataset: PairDataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        bucket: bool = True,
        hard: HardNegatives | None = None,
        hard_share: float = 1.0,
        hard_from: int = 0,
        count: int = 1,
    ) -> None:
        self.dataset = dataset
        self._count = count
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._batching = "bucket" if bucket else "random"
        self._finished_parts: tuple[int, list[FinishedPart]] | None = None
        self._hard, self._hard_share, self._hard_from = hard, hard_share, hard_from
        self._order, starts = captions_by_image(dataset.caption_image, dataset.num_images)
        self._captioned = np.flatnonzero(np.diff(starts))  # images with captions: the others teach nothing
        if len(self._captioned) < 2:
            raise UserError(
                f"{dataset.features.path.parent}: {len(self._captioned)} image with captions in "
                f"{dataset.name}, expected at least two: each pair needs a wrong one beside it"
            )
        self._starts, self._counts = starts[self._captioned], np.diff(starts)[self._captioned]

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Number of batches, the same for all processes and epochs."""
        return self._sampler(np.ones(self.dataset.num_captions, np.int64)).steps_per_epoch(epoch)

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Let `epoch` go on where `finished_parts` ended: see `BatchSampler`."""
        self._finished_parts = epoch, finished_parts

    def batches(self, epoch: int) -> list[Pairs]:
        """Return this process's batches of one epoch."""
        positives = Pairs(self.dataset.caption_image, np.arange(self.dataset.num_captions))
        negatives = self.negatives(epoch)
        images = np.vstack([positives.images, negatives.images])  # [1+N,captions]
        captions = np.vstack([positives.captions, negatives.captions])
        lengths = self.dataset.pair_lengths(Pairs(images, captions)).max(axis=0)
        return [
            Pairs(images[:, batch].reshape(-1), captions[:, batch].reshape(-1))
            for batch in self._sampler(lengths).batches(epoch)
        ]

    def negatives(self, epoch: int) -> Pairs:
        """Draw the N negative pairs of each caption, [N,captions]."""
        random = np.random.default_rng([self._seed, epoch, 1])  # BatchSampler draws from (seed, epoch)
        images, captions = self.dataset.caption_image, np.arange(self.dataset.num_captions)
        others = random.integers(len(self._captioned) - 1, size=(self._count, len(images)))
        others += others >= np.searchsorted(self._captioned, images)  # all but its own, alike
        places = self._starts[others] + random.integers(self._counts[others])
        wrong_captions, wrong_images = self._order[places], self._captioned[others]
        is_caption = random.random(len(images)) < 0.5
        if self._hard is not None and epoch >= self._hard_from:
            take = random.random(len(images)) < self._hard_share
            draws = random.random(len(images))
            hard_captions = _draw(self._hard.captions_of_image[images], draws, self._count)
            hard_images = _draw(self._hard.images_of_caption, draws, self._count)
            wrong_captions = np.where(take & (hard_captions >= 0), hard_captions, wrong_captions)
            wrong_images = np.where(take & (hard_images >= 0), hard_images, wrong_images)
        return Pairs(
            np.where(is_caption, images, wrong_images), np.where(is_caption, wrong_captions, captions)
        )

    def _sampler(self, lengths: np.ndarray) -> BatchSampler:
        sampler = BatchSampler(
            lengths, self._batch_size, self._batching, self._seed, self._rank, self._world_size
        )
        if self._finished_parts:
            sampler.resume_within_epoch(*self._finished_parts)
        return sampler


def harden_in_batch(
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


def _draw(lists: np.ndarray, draws: np.ndarray, count: int) -> np.ndarray:
    """Return `count` different entries of each row, [count,N], of those that are not -1; -1 where they end.

    The first is `draws` [N] of the way through them, the others follow at equal distances.
    """
    present = (lists >= 0).sum(axis=1)
    ordered = np.take_along_axis(lists, np.argsort(lists < 0, axis=1, kind="stable"), axis=1)
    numbers = np.arange(count)[:, None]
    steps = (draws * present).astype(np.int64) + numbers * np.maximum(1, present // count)
    drawn = ordered[np.arange(len(lists)), steps % np.maximum(1, present)]
    return np.where(numbers < present, drawn, -1)
