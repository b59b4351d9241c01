"""Which captions form which batch: random, reproducible, and with little padding."""

from dataclasses import dataclass

import numpy as np

# Batches that are sorted by length together, and the fewest such pools: with a single one, the longest
# captions would meet each other every epoch. benchmarks/padding.py shows what remains of the padding.
_POOL_BATCHES, _MIN_POOLS = 64, 2


@dataclass(frozen=True)
class FinishedPart:
    """A part of an epoch: `done` global batches of `size` samples, shared among so many processes."""

    size: int
    processes: int
    done: int


class BatchSampler:
    """The batches of an epoch for one of `world_size` processes.

    lengths: int [captions], in tokens. batch_size: pairs per process.
    batching: `random`; `bucket` sorts pools of up to 64 shuffled batches by length and shuffles the batches
    again; `same_length` gives every batch captions of one length.
    group_of, together: with `together` > 1, up to that many captions of a group (int [captions]: of an image,
    say) follow each other, drawn anew each epoch, so that most share a batch; not with `same_length`.

    All processes form the same global batches of world_size x batch_size from (seed, epoch), those of one
    process with as large a batch, and each takes its share, so there is nothing to communicate and nothing to
    save: an interrupted epoch goes on at an index of `batches(epoch)`. Every process gets equally many
    batches, each with a pair at least; the sizes of the shares differ by one at most. Each caption comes once
    an epoch, but for those of a length with fewer captions than processes, or with one (same_length). A batch
    of one, which the original forms, has a loss of zero and no gradient, so nothing is lost. A last batch of
    so few joins the one before it.

    An epoch that was begun with other batches or processes goes on after `resume_within_epoch`: what is left
    of its order is cut anew.
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
        self._finished_parts: dict[int, list[FinishedPart]] = {}  # epoch -> how its first batches were cut

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Number of batches, the same for all processes and epochs, but for one that was taken up."""
        if epoch in self._finished_parts:
            return len(self.batches(epoch))
        return sum(map(len, self._sizes(self._whole)))

    def resume_within_epoch(self, epoch: int, finished_parts: list[FinishedPart]) -> None:
        """Let `epoch` go on where `finished_parts` ended: `batches(epoch)` are then those that follow."""
        self._finished_parts = {epoch: finished_parts}

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return this process's batches of one epoch, each the indices of its captions, int64 [B]."""
        first, *later = [*self._finished_parts.get(epoch, []), self._whole]
        batches = self._draw(epoch, first)[first.done :]
        for cut in later:
            batches = self._cut_again(batches, cut)[cut.done :]
        return [self._share(batch) for batch in batches]

    def _sizes(self, cut: FinishedPart) -> list[list[int]]:
        """Return the sizes of the batches; same_length: for each length."""
        groups = np.bincount(self.lengths) if self.batching == "same_length" else [len(self.lengths)]
        return [_batch_sizes(count, cut) for count in groups]

    def _cut_again(self, batches: list[np.ndarray], cut: FinishedPart) -> list[np.ndarray]:
        """Cut the captions of `batches` into other batches, in their order."""
        order = np.concatenate(batches) if batches else np.empty(0, np.int64)
        parts = [order]
        if self.batching == "same_length":
            lengths = self.lengths[order]
            parts = [order[lengths == length] for length in dict.fromkeys(lengths.tolist())]
        cuts = [np.split(part, np.cumsum(_batch_sizes(len(part), cut))) for part in parts]
        return [batch for pieces in cuts for batch in pieces[:-1]]

    def _draw(self, epoch: int, cut: FinishedPart) -> list[np.ndarray]:
        """Return the global batches of a whole epoch."""
        sizes = self._sizes(cut)
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        if self.batching == "same_length":
            batches = self._by_length(order, sizes)
        elif self._group_of is None:
            batches = self._cut(order, self.lengths, sizes[0], random)
        else:
            batches = self._cut(*self._bring_together(order, random), sizes[0], random)
        if self.shuffle:
            batches = [batches[index] for index in random.permutation(len(batches))]
        return batches

    def _share(self, batch: np.ndarray) -> np.ndarray:
        if self._group_of is not None:  # a group's captions stay in one process
            return np.array_split(batch, self.world_size)[self.rank]
        return batch[self.rank :: self.world_size]  # so that no process gets the long end of a sorted batch

    def _bring_together(
        self, order: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return an order in which a group's captions follow each other, and the longest each is with."""
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

    def _cut(
        self, order: np.ndarray, lengths: np.ndarray, sizes: list[int], random: np.random.Generator
    ) -> list[np.ndarray]:
        """Cut the order into batches; bucket: sort each pool by `lengths` [captions] first."""
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
        """Cut the captions of each length into batches."""
        order = order[np.argsort(self.lengths[order], kind="stable")]
        batches, start = [], 0
        for count, sizes in zip(np.bincount(self.lengths), sizes_of, strict=True):
            ends = start + np.cumsum([0, *sizes])
            batches += [order[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
            start += count
        return batches


def _batch_sizes(count: int, cut: FinishedPart) -> list[int]:
    """Sizes of the global batches for `count` captions: two or more, and one per process."""
    fewest = max(2, cut.processes)
    if count < fewest:
        return []
    full, rest = divmod(count, cut.size)
    sizes = [cut.size] * full
    if rest >= fewest:
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    return sizes
