"""Form batches for metric learning: several images of each of several classes, or triplets of rows."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from config.errors import UserError
from datasets.samplers.batches import FinishedPart


class ClassSampler:
    """The P x K batches of an epoch for process `rank` of `world_size`: K images of each of P classes.

    `labels` (int [images]) are any integers. `batch_size` is the number of images per process, P x K, and
    `samples_per_class` is K. All classes occur equally often, whatever their sizes: a class is drawn again
    after all classes have been drawn, and an image after all images of its class (a class of fewer than K
    images repeats some). An epoch has about as many images as the data set, and all classes at least once.

    All processes form the same global batches from (seed, epoch), like one process with as large a batch, and
    each takes its share of the classes: nothing is communicated and nothing is saved. No class occurs twice
    in a global batch or, if there are too few classes for that, in a process's share.
    Raises `UserError` for a class of one image, and for fewer than P classes. The message names the `source`
    of the labels, and the class by `class_names` if these are given.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        samples_per_class: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        source: str = "training split",
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.labels = np.asarray(labels)
        classes, members = np.unique(self.labels, return_inverse=True)
        self._images_of = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
        self._classes_per_batch = batch_size // samples_per_class
        self._samples_per_class = samples_per_class
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._check(classes, source, class_names)
        batches = max(
            -(-len(self.labels) // (self._classes_per_batch * samples_per_class)),
            -(-len(classes) // self._classes_per_batch),
        )
        self._steps = -(-batches // world_size)

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Return the number of batches, the same for all processes and epochs."""
        return self._steps

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Raise `UserError`: classes are drawn in rounds, of which other batches could not use the rest."""
        raise UserError(
            f"cannot resume in the midst of epoch {epoch} with another OPTIMIZATION.BATCH_SIZE or number of "
            "processes: batches by class have no order to go on in; resume with those of before, or from a "
            "checkpoint at the end of an epoch"
        )

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return this process's batches of one epoch, each the indices of its images, int64 [B], by class."""
        return [np.split(batch, self.world_size)[self.rank] for batch in self.global_batches(epoch)]

    def global_batches(self, epoch: int) -> list[np.ndarray]:
        """Return the global batches of one epoch, each with the processes' shares one after another."""
        random = np.random.default_rng([self.seed, epoch])
        drawn = _Rounds(len(self._images_of), random)
        images = [_Rounds(len(members), random) for members in self._images_of]
        shares, classes = self.world_size, self._classes_per_batch
        if shares * classes <= len(self._images_of):
            shares, classes = 1, shares * classes
        batches = []
        for _ in range(self._steps):
            chosen = [number for _ in range(shares) for number in drawn.take(classes)]
            parts = [self._images_of[each][images[each].take(self._samples_per_class)] for each in chosen]
            batches.append(np.concatenate(parts))
        return batches

    def _check(self, classes: np.ndarray, source: str, class_names: Sequence[str] | None) -> None:
        sizes = np.array([len(members) for members in self._images_of])
        lone = np.flatnonzero(sizes == 1)
        if len(lone):
            name = class_names[classes[lone[0]]] if class_names else classes[lone[0]]
            more = f" (and {len(lone) - 1} other classes)" if len(lone) > 1 else ""
            raise UserError(
                f"{source}: class {name} has one image{more}, expected two or more for "
                f"{self._samples_per_class} of each class a batch: add images, leave the class out, or train "
                "with LOSS.NAME=softmax"
            )
        wanted, each = self._classes_per_batch, self._samples_per_class
        if len(classes) < wanted:
            raise UserError(
                f"{source}: {len(classes)} classes, expected at least {wanted} for batches of {wanted} x "
                f"{each} images: lower OPTIMIZATION.BATCH_SIZE to {len(classes) * each}, or raise "
                "OPTIMIZATION.SAMPLES_PER_CLASS"
            )


class TripletSampler:
    """The batches of an epoch, whose rows are anchor, positive, negative, again and again.

    Anchor and positive are two images of a class, drawn as by `ClassSampler`; the negative is any image of
    another class. `batch_size` is the number of images per process, a multiple of three. See `ClassSampler`
    for the rest.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        source: str = "training split",
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.labels = np.asarray(labels)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        if len(np.unique(self.labels)) < 2:
            raise UserError(f"{source}: one class, expected two or more for triplets: add images of another")
        triplets = min(batch_size // 3, len(np.unique(self.labels)))
        self._pairs = ClassSampler(self.labels, 2 * triplets, 2, seed, rank, world_size, source, class_names)

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Return the number of batches, the same for all processes and epochs."""
        return self._pairs.steps_per_epoch(epoch)

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Raise `UserError`: see `ClassSampler`."""
        self._pairs.resume_within_epoch(epoch, finished_parts)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return this process's batches of one epoch, each the indices of its images, int64 [B]."""
        random = np.random.default_rng([self.seed, epoch, 1])
        batches = [self._with_negatives(pairs, random) for pairs in self._pairs.global_batches(epoch)]
        return [np.split(batch, self.world_size)[self.rank] for batch in batches]

    def _with_negatives(self, pairs: np.ndarray, random: np.random.Generator) -> np.ndarray:
        pairs = pairs.reshape(-1, 2)
        own = self.labels[pairs[:, 0]]
        negative = random.integers(len(self.labels), size=len(pairs))
        while (wrong := self.labels[negative] == own).any():
            negative[wrong] = random.integers(len(self.labels), size=wrong.sum())
        return np.column_stack([pairs, negative]).reshape(-1)


class _Rounds:
    """Numbers below `count` in an endless random order, in which each occurs once before any occurs again."""

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self._count, self._random = count, random
        self._ahead: list[int] = []

    def take(self, number: int) -> list[int]:
        """Return the next `number` numbers, all different if `count` is large enough."""
        taken, self._ahead = self._ahead[:number], self._ahead[number:]
        while len(taken) < number:
            fresh = self._random.permutation(self._count).tolist()
            again = set(taken) if number <= self._count else set()
            wanted = list(islice((each for each in fresh if each not in again), number - len(taken)))
            taken += wanted
            chosen = set(wanted)
            self._ahead = [each for each in fresh if each not in chosen]
        return taken
