"""Form batches of captions: at random, reproducibly, and with little padding."""

from dataclasses import dataclass

import numpy as np

# The batches of a pool, which are sorted by length together, and the least number of pools: in a single one
# the longest captions would share a batch in every epoch. benchmarks/padding.py measures the padding left.
_POOL_BATCHES, _MIN_POOLS = 64, 2


@dataclass(frozen=True)
class FinishedPart:
    """A finished part of an epoch: `done` global batches of `size` samples each, made for `processes`."""

    size: int
    processes: int
    done: int


class BatchSampler:
    """The batches of an epoch for process `rank` of `world_size`.

    `lengths` (int [captions]) counts tokens. `batch_size` is the number of pairs per process. `batching` is
    `random`; `bucket`, which sorts pools of up to 64 shuffled batches by length and shuffles the batches
    again; or `same_length`, which gives every batch captions of one length. `group_of` (int [captions]) is
    each caption's group, such as its image. If `together` is above 1, up to that many captions of a group
    follow each other, drawn anew each epoch, so that most of them share a batch; `same_length` ignores
    groups.

    All processes form the same global batches of world_size x batch_size from (seed, epoch), like one process
    with as large a batch, and each takes its share. Nothing is communicated and nothing is saved: an
    interrupted epoch resumes at an index of `batches(epoch)`. Every process gets the same number of batches,
    each with at least one pair; the sizes of the shares differ by at most one.

    Every caption is used once an epoch. `same_length` leaves out lengths with fewer captions than processes,
    or with one caption: a batch of one has no negatives, so its loss is zero. A last batch that is too small
    is added to the batch before it.

    After `resume_within_epoch`, an epoch that was started with another batch size or number of processes is
    resumed: the rest of its order is divided into new batches.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        batching: str,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        group_of: np.ndarray | None = None,
        together: int = 1,
    ) -> None:
        if batching not in ("random", "bucket", "same_length"):
            raise ValueError(f"unknown batching {batching!r}, expected random, bucket or same_length")
        self.lengths = np.asarray(lengths)
        self.batching = batching
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self._group_of = group_of if together > 1 and batching != "same_length" else None
        self._together = together
        self._whole = FinishedPart(batch_size * world_size, world_size, 0)
        self._finished_parts: dict[int, list[FinishedPart]] = {}  # epoch -> its parts, in order

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Return the number of batches of an epoch, the same for all processes.

        It is the same for all epochs, except one that was resumed with other batches.
        """
        if epoch in self._finished_parts:
            return len(self.batches(epoch))
        return sum(map(len, self._sizes(self._whole)))

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Resume `epoch` behind `finished_parts`: `batches(epoch)` then returns only what follows them."""
        self._finished_parts = {epoch: finished_parts}

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return this process's batches of one epoch, each the indices of its captions, int64 [B]."""
        first, *later = [*self._finished_parts.get(epoch, []), self._whole]
        batches = self._draw(epoch, first)[first.done :]
        for part in later:
            batches = self._divide_again(batches, part)[part.done :]
        return [self._share(batch) for batch in batches]

    def _sizes(self, part: FinishedPart) -> list[list[int]]:
        """Return the sizes of the batches in one list; `same_length`: in one list per length."""
        groups = np.bincount(self.lengths) if self.batching == "same_length" else [len(self.lengths)]
        return [_batch_sizes(count, part) for count in groups]

    def _divide_again(self, batches: list[np.ndarray], part: FinishedPart) -> list[np.ndarray]:
        """Divide the captions of `batches` into new batches, in their order."""
        order = np.concatenate(batches) if batches else np.empty(0, np.int64)
        orders = [order]
        if self.batching == "same_length":
            lengths = self.lengths[order]
            orders = [order[lengths == length] for length in dict.fromkeys(lengths.tolist())]
        divided = [np.split(each, np.cumsum(_batch_sizes(len(each), part))) for each in orders]
        return [batch for pieces in divided for batch in pieces[:-1]]  # the last piece is in no batch

    def _draw(self, epoch: int, part: FinishedPart) -> list[np.ndarray]:
        """Return the global batches of a whole epoch, with the size and number of processes of `part`."""
        sizes = self._sizes(part)
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        if self.batching == "same_length":
            batches = self._by_length(order, sizes)
        elif self._group_of is None:
            batches = self._divide(order, self.lengths, sizes[0], random)
        else:
            batches = self._divide(*self._with_groups_together(order, random), sizes[0], random)
        if self.shuffle:
            batches = [batches[index] for index in random.permutation(len(batches))]
        return batches

    def _share(self, batch: np.ndarray) -> np.ndarray:
        if self._group_of is not None:  # a group's captions stay in one process
            return np.array_split(batch, self.world_size)[self.rank]
        return batch[self.rank :: self.world_size]  # so that no process gets the long end of a sorted batch

    def _with_groups_together(
        self, order: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return an order in which the captions of a group follow each other, and lengths to sort it by.

        A run of captions must stay together when batches are sorted: each of its captions gets the length of
        the longest.
        """
        order = order[np.argsort(self._group_of[order], kind="stable")]
        groups = self._group_of[order]
        first_of_group = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
        place = np.arange(len(order)) - np.repeat(first_of_group, np.diff([*first_of_group, len(order)]))
        first_of_run = np.flatnonzero(place % self._together == 0)
        run = np.repeat(np.arange(len(first_of_run)), np.diff([*first_of_run, len(order)]))
        longest = np.empty_like(self.lengths)
        longest[order] = np.maximum.reduceat(self.lengths[order], first_of_run)[run]
        if self.shuffle:
            run = random.permutation(len(first_of_run))[run]
        return order[np.argsort(run, kind="stable")], longest

    def _divide(
        self, order: np.ndarray, lengths: np.ndarray, sizes: list[int], random: np.random.Generator
    ) -> list[np.ndarray]:
        """Divide the order into batches of these sizes.

        With `bucket`, each pool is sorted by `lengths` [captions] first.
        """
        sizes = np.array(sizes, dtype=np.int64)
        if not len(sizes):
            return []
        if self.shuffle:
            sizes = random.permutation(sizes)  # else the smallest batch would hold the longest captions
        ends = np.cumsum(sizes)
        order = order[: sizes.sum()]
        if self.batching == "bucket":
            step = max(1, min(_POOL_BATCHES, len(sizes) // _MIN_POOLS))
            pools = np.split(order, ends[step - 1 : -1 : step])
            order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        return np.split(order, ends[:-1])

    def _by_length(self, order: np.ndarray, sizes_of: list[list[int]]) -> list[np.ndarray]:
        """Divide the captions of each length into batches."""
        order = order[np.argsort(self.lengths[order], kind="stable")]
        batches, start = [], 0
        for count, sizes in zip(np.bincount(self.lengths), sizes_of, strict=True):
            ends = start + np.cumsum([0, *sizes])
            batches += [order[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
            start += count
        return batches


def _batch_sizes(count: int, part: FinishedPart) -> list[int]:
    """Return the sizes of global batches of `count` captions: at least 2, and at least 1 per process."""
    fewest = max(2, part.processes)
    if count < fewest:
        return []
    full, rest = divmod(count, part.size)
    sizes = [part.size] * full
    if rest >= fewest:
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    return sizes
