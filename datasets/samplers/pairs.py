"""The pairs that a cross encoder trains on: each caption with its image, and something wrong beside it."""

import numpy as np

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs, captions_by_image
from datasets.samplers.batches import BatchSampler, FinishedPart
from datasets.samplers.negatives import HardNegatives


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
