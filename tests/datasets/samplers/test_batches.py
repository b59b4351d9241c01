"""Every caption is used once an epoch, at random but reproducibly; processes get even shares."""

import numpy as np
import pytest

from datasets.samplers.batches import BatchSampler, FinishedPart

BATCHINGS = ["random", "bucket", "same_length"]
LENGTHS = np.random.default_rng(0).poisson(8, size=1003) + 2


def sampler(batching, lengths=LENGTHS, batch_size=16, seed=1, rank=0, world_size=1, shuffle=True):
    return BatchSampler(lengths, batch_size, batching, seed, rank, world_size, shuffle)


def padding(lengths, batches):
    """Return the number of padding tokens per real one."""
    computed = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    real = sum(lengths[index] for batch in batches for index in batch)
    return computed / real - 1


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_holds_each_caption_once_but_for_lengths_that_are_too_few_to_share(batching, world_size):
    ranks = [sampler(batching, rank=rank, world_size=world_size).batches(3) for rank in range(world_size)]
    seen = np.concatenate([batch for batches in ranks for batch in batches])
    assert len(set(seen)) == len(seen)

    groups = np.bincount(LENGTHS) if batching == "same_length" else [len(LENGTHS)]
    assert len(seen) == sum(count for count in groups if count >= max(2, world_size))


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("together", [1, 3])
def test_processes_share_out_the_batches_of_one_process_evenly(batching, together):
    def batches(batch_size, rank=0, world_size=1):
        group_of = np.arange(len(LENGTHS)) // 5
        return BatchSampler(
            LENGTHS, batch_size, batching, 1, rank, world_size, group_of=group_of, together=together
        ).batches(0)

    ranks = [batches(16, rank, 3) for rank in range(3)]
    whole_batches = [batch for batch in batches(48) if len(batch) >= 3]
    assert batching == "same_length" or len(whole_batches) == len(batches(48))
    shared = [np.concatenate(shares) for shares in zip(*ranks, strict=True)]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, whole_batches))
    if batching != "same_length":
        assert [sorted(batch) for batch in shared] == [sorted(batch) for batch in whole_batches], "in order"
    for shares in zip(*ranks, strict=True):
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert sampler(batching, rank=1, world_size=3).steps_per_epoch(0) == len(ranks[0])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_an_epoch_depends_on_its_seed_and_number_alone(batching):
    def flat(seed, epoch):
        return np.concatenate(sampler(batching, seed=seed).batches(epoch)).tolist()

    assert flat(1, 5) == flat(1, 5)
    assert flat(1, 5) != flat(1, 6)
    assert flat(1, 5) != flat(2, 5)


@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 18, 31, 32, 33, 34, 35])
def test_a_remainder_is_a_batch_of_its_own_unless_it_is_one_pair(count):
    sizes = [len(batch) for batch in sampler("random", LENGTHS[:count]).batches(0)]
    assert sum(sizes) == count
    full, rest = divmod(count, 16)
    expected = [16] * full + [rest] if rest > 1 else [16] * full
    if rest == 1:
        expected[-1] = 17
    assert sorted(sizes) == sorted(expected)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_too_few_captions_make_no_batch(batching):
    for lengths, world_size in (([5], 1), ([5, 5, 5], 4), ([], 1)):
        few = sampler(batching, np.array(lengths, int), world_size=world_size)
        assert few.batches(0) == [] and few.steps_per_epoch(0) == 0


def test_same_length_batches_hold_one_length():
    for batch in sampler("same_length").batches(0):
        assert len({LENGTHS[index] for index in batch}) == 1


def test_buckets_compute_little_padding():
    lengths = np.random.default_rng(0).poisson(9, size=20_000) + 3
    assert padding(lengths, sampler("bucket", lengths, 128).batches(0)) < 0.03
    assert padding(lengths, sampler("random", lengths, 128).batches(0)) > 0.5


def test_buckets_come_in_random_order_and_change_every_epoch():
    lengths = np.sort(LENGTHS)
    first, second = (sampler("bucket", lengths).batches(epoch) for epoch in (0, 1))
    means = [lengths[batch].mean() for batch in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
    pairs = {tuple(sorted(batch)) for batch in first} & {tuple(sorted(batch)) for batch in second}
    assert not pairs


def test_without_shuffling_random_batches_follow_the_data():
    batches = sampler("random", shuffle=False).batches(0)
    assert np.concatenate(batches).tolist() == list(range(len(LENGTHS)))


def test_unknown_batching_lists_the_choices():
    with pytest.raises(ValueError, match="random, bucket or same_length"):
        sampler("sorted")


@pytest.mark.parametrize("batching", ["random", "bucket"])
def test_captions_of_an_image_come_together_each_once_and_with_others_each_epoch(batching):
    image_of = np.repeat(np.arange(201), 5)[: len(LENGTHS)]
    together = BatchSampler(LENGTHS, 16, batching, seed=1, group_of=image_of, together=2)
    epochs = [together.batches(epoch) for epoch in range(2)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
        # five captions an image are 2 + 2 + 1: three images for five captions, or one more a batch
        images = sum(len(set(image_of[batch])) for batch in batches)
        assert len(LENGTHS) * 0.6 <= images <= len(LENGTHS) * 0.6 + len(batches) + 1
    mates = [
        {frozenset(batch[image_of[batch] == image_of[0]]) for batch in batches if 0 in batch}
        for batches in epochs
    ]
    assert mates[0] != mates[1]
    assert padding(LENGTHS, together.batches(0)) < (0.6 if batching == "bucket" else 1.5)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(
    "cuts",
    [[FinishedPart(32, 2, 5)], [FinishedPart(32, 2, 5), FinishedPart(9, 1, 7), FinishedPart(48, 3, 1)]],
)
def test_an_epoch_taken_up_with_other_batches_shows_what_is_left_once(batching, cuts):
    lengths = LENGTHS.clip(6, 12)  # enough of each

    def ranks(size, processes, finished_parts):
        found = []
        for rank in range(processes):
            each = sampler(batching, lengths, size // processes, rank=rank, world_size=processes)
            if finished_parts:
                each.resume_within_epoch(3, finished_parts)
            assert each.steps_per_epoch(3) == len(each.batches(3))
            found.append(each.batches(3))
        return [np.concatenate(shares) for shares in zip(*found, strict=True)]

    seen = []
    for number, cut in enumerate(cuts):
        batches = ranks(cut.size, cut.processes, cuts[:number])
        seen += batches[: cut.done]
    seen += ranks(64, 4, cuts)
    assert len(np.concatenate(seen)) == len(set(np.concatenate(seen).tolist()))
    left_out = len(lengths) - len(np.concatenate(seen))
    assert left_out == 0 if batching != "same_length" else left_out <= 4 * len(set(lengths.tolist()))
    if batching == "same_length":
        assert all(len(set(lengths[batch])) == 1 for batch in seen)


def test_other_epochs_than_the_one_taken_up_are_whole():
    taken, fresh = sampler("bucket"), sampler("bucket")
    taken.resume_within_epoch(3, [FinishedPart(32, 2, 5)])
    assert all(map(np.array_equal, taken.batches(4), fresh.batches(4)))
    assert len(taken.batches(3)) < len(fresh.batches(3))
