"""Batches of P x K images by class, and of triplets."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.samplers.classes import ClassSampler, TripletSampler

LABELS = np.repeat([3, 10, 4, 700, 8, 9, 1], [2, 7, 3, 4, 2, 30, 3])  # with gaps, of unequal sizes


def test_a_batch_has_k_images_of_each_of_p_classes() -> None:
    for batch in ClassSampler(LABELS, batch_size=8, samples_per_class=2, seed=0).batches(0):
        classes, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(classes) == 4
        assert (counts == 2).all()
        assert len(set(batch)) == 8


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_is_about_the_data_set_and_shows_classes_equally_often(world_size: int) -> None:
    samplers = [
        ClassSampler(LABELS, 8, 2, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    batches = [batch for sampler in samplers for batch in sampler.batches(5)]
    assert len({len(sampler.batches(5)) for sampler in samplers}) == 1
    assert len(LABELS) <= sum(map(len, batches)) < len(LABELS) + 8 * world_size
    _, counts = np.unique(LABELS[np.concatenate(batches)], return_counts=True)
    assert len(counts) == 7
    assert counts.max() - counts.min() <= 2 * 2


def test_many_small_classes_are_all_seen() -> None:
    labels = np.repeat(np.arange(50), 2)
    sampler = ClassSampler(labels, batch_size=12, samples_per_class=4, seed=0)
    for epoch in range(3):
        batches = sampler.batches(epoch)
        assert len(batches) == sampler.steps_per_epoch() == 17
        assert len(np.unique(labels[np.concatenate(batches)])) == 50


def test_images_of_a_class_come_again_when_all_have_come() -> None:
    labels = np.repeat([0, 1], 10)
    batches = ClassSampler(labels, batch_size=4, samples_per_class=2, seed=1).batches(0)
    assert sorted(np.concatenate(batches)) == list(range(20))


def test_a_class_of_fewer_than_k_repeats_its_images() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    for batch in ClassSampler(labels, batch_size=8, samples_per_class=4, seed=1).batches(0):
        assert sorted(batch) == [0, 0, 1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "make", [lambda seed: ClassSampler(LABELS, 8, 2, seed), lambda seed: TripletSampler(LABELS, 9, seed)]
)
def test_batches_are_a_function_of_seed_and_epoch(make) -> None:
    first, again = make(1).batches(2), make(1).batches(2)
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    for other in (make(1).batches(3), make(2).batches(2)):
        assert (np.concatenate(first) != np.concatenate(other)).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda factor, *rank: ClassSampler(LABELS, 4 * factor, 2, 4, *rank),
        lambda factor, *rank: TripletSampler(LABELS, 6 * factor, 4, *rank),
    ],
)
def test_processes_share_out_the_batches_of_one(make) -> None:
    shares = [make(1, rank, 3).batches(0) for rank in range(3)]
    for whole, *parts in zip(make(3).batches(0), *shares, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_class_comes_twice_in_a_global_batch_only_if_there_are_too_few() -> None:
    for shares in zip(*(ClassSampler(LABELS, 8, 2, 4, rank, 2).batches(0) for rank in (0, 1)), strict=True):
        for batch in shares:
            assert len(np.unique(LABELS[batch])) == 4


@pytest.mark.parametrize("world_size", [1, 2])
def test_triplets_are_anchor_positive_and_negative(world_size: int) -> None:
    negatives = []
    for rank in range(world_size):
        sampler = TripletSampler(LABELS, batch_size=9, seed=0, rank=rank, world_size=world_size)
        assert len(sampler.batches(0)) == sampler.steps_per_epoch()
        for batch in sampler.batches(0):
            assert len(batch) == 9
            anchor, positive, negative = batch.reshape(-1, 3).T
            assert (anchor != positive).all()
            assert (LABELS[anchor] == LABELS[positive]).all()
            assert (LABELS[anchor] != LABELS[negative]).all()
            negatives.append(negative)
    assert len(np.unique(LABELS[np.concatenate(negatives)])) > 3


def test_triplets_of_few_classes_make_smaller_batches() -> None:
    batches = TripletSampler(np.array([0, 0, 1, 1]), batch_size=60, seed=0).batches(0)
    assert {len(batch) for batch in batches} == {6}


def test_a_class_of_one_image_is_named() -> None:
    labels = np.array([0, 0, 5, 1, 1, 9])
    for make in (
        lambda: ClassSampler(labels, 4, 2, 0, source="train.txt"),
        lambda: TripletSampler(labels, 6, 0),
    ):
        with pytest.raises(
            UserError, match=r"class 5 has one image \(and 1 other classes\), expected two or more"
        ):
            make()


def test_fewer_classes_than_a_batch_needs() -> None:
    with pytest.raises(
        UserError, match="2 classes, expected at least 4 for batches of 4 x 2 images: lower .* to 4"
    ):
        ClassSampler(np.array([0, 0, 1, 1]), batch_size=8, samples_per_class=2, seed=0)
    with pytest.raises(UserError, match="one class, expected two or more for triplets"):
        TripletSampler(np.array([0, 0, 0]), batch_size=6, seed=0)
