"""The training pairs of a cross encoder: each caption with its image, and negative pairs."""

import numpy as np

from config.errors import UserError
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs, captions_by_image
from datasets.samplers.batches import BatchSampler, FinishedPart
from datasets.samplers.negatives import HardNegatives


class PairSampler:
    """The training batches of an epoch for process `rank` of `world_size`.

    Each caption has one positive pair, with its image, and `count` negative pairs. With probability 0.5 these
    pair its image with any captions of any other images, otherwise the caption with any other images (Oscar,
    arXiv 2004.06165). A batch has `batch_size` captions per process: first the positive pairs of all
    captions, then the first negative pairs in the same order, then the second ones, and so on.

    From the epoch `hard_from` on, a negative is taken from the lists of `hard` with probability `hard_share`,
    if they have any.

    Everything follows from (seed, epoch), as in `BatchSampler`, which shares the captions among processes
    and, with `bucket`, puts pairs of similar length together: an interrupted epoch resumes at an index of
    `batches(epoch)`. Raises `UserError` unless two images have captions.
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
        """Return the number of batches of an epoch, the same for all processes.

        It is the same for all epochs, except one that was resumed with other batches.
        """
        return self._sampler(np.ones(self.dataset.num_captions, np.int64)).steps_per_epoch(epoch)

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Resume `epoch` behind `finished_parts`; see `BatchSampler`."""
        self._finished_parts = epoch, finished_parts

    def batches(self, epoch: int) -> list[Pairs]:
        """Return this process's batches of one epoch, each the positive pairs, then the negative pairs."""
        positives = Pairs(self.dataset.caption_image, np.arange(self.dataset.num_captions))
        negatives = self.negatives(epoch)
        images = np.vstack([positives.images, negatives.images])  # [1+count,captions]
        captions = np.vstack([positives.captions, negatives.captions])
        lengths = self.dataset.pair_lengths(Pairs(images, captions)).max(axis=0)
        return [
            Pairs(images[:, batch].reshape(-1), captions[:, batch].reshape(-1))
            for batch in self._sampler(lengths).batches(epoch)
        ]

    def negatives(self, epoch: int) -> Pairs:
        """Draw `count` negative pairs for each caption: images and captions [count,captions]."""
        random = np.random.default_rng(
            [self._seed, epoch, 1]
        )  # a stream apart from BatchSampler's (seed, epoch)
        images, captions = self.dataset.caption_image, np.arange(self.dataset.num_captions)
        others = random.integers(len(self._captioned) - 1, size=(self._count, len(images)))
        others += others >= np.searchsorted(
            self._captioned, images
        )  # all images but its own, with equal probability
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
    """Return `count` different entries of each row that are not -1, [count,N]; -1 where a row has no more.

    `draws` [N], in [0, 1), tell how far along its entries a row's first one is; the others follow at equal
    distances.
    """
    present = (lists >= 0).sum(axis=1)
    ordered = np.take_along_axis(lists, np.argsort(lists < 0, axis=1, kind="stable"), axis=1)
    numbers = np.arange(count)[:, None]
    steps = (draws * present).astype(np.int64) + numbers * np.maximum(1, present // count)
    drawn = ordered[np.arange(len(lists)), steps % np.maximum(1, present)]
    return np.where(numbers < present, drawn, -1)
