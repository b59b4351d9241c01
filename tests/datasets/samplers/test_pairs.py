"""Each caption has one positive and one negative pair an epoch, by the original's rule, reproducibly."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.samplers.negatives import HardNegatives, hardest_in_batch, neighbours, of_short_lists
from datasets.samplers.pairs import PairSampler
from datasets.words.wordpiece import MARKERS, WordPiece

IMAGES = 60
RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.integers(1, 8, size=IMAGES)  # captions an image
COUNTS[7] = 0
CAPTION_IMAGE = np.repeat(np.arange(IMAGES), COUNTS)
CAPTIONS = len(CAPTION_IMAGE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images with many or few tags, captions of one to fifteen words, of which two images share one."""
    path = tmp_path_factory.mktemp("pairs") / "train_ims.npy"
    np.save(path, RANDOM.normal(size=(IMAGES, 2, 3)).astype(np.float32))
    words = [f"w{index}" for index in range(30)]
    captions = [" ".join(RANDOM.choice(words, RANDOM.integers(1, 16))) for _ in range(CAPTIONS)]
    captions[0] = captions[-1] = "w1 w2 w3"
    tags = [["w4"] * (index % 7) for index in range(IMAGES)]
    ids = list(map(str, range(IMAGES)))
    split = CaptionSplit("train", ids, np.arange(IMAGES), captions, CAPTION_IMAGE)
    return PairDataset(NpyFeatures(path), split, WordPiece([*MARKERS, *words]), tags, 24, 5)


def captions_of(image: int) -> np.ndarray:
    return np.flatnonzero(np.equal(CAPTION_IMAGE, image))


def positives(batches: list[Pairs]) -> np.ndarray:
    return np.concatenate([pairs.captions[: len(pairs) // 2] for pairs in batches])


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_batch_has_positives_then_negatives_and_an_epoch_each_caption_once(dataset, world_size):
    ranks = [PairSampler(dataset, 8, 1, rank, world_size) for rank in range(world_size)]
    epochs = [rank.batches(2) for rank in ranks]
    assert len({len(epoch) for epoch in epochs}) == 1
    assert len(epochs[0]) == ranks[0].steps_per_epoch(2)
    for batches in epochs:
        for pairs in batches:
            match = dataset.batch(pairs)["match"]
            half = len(pairs) // 2
            assert match[:half].all() and not match[half:].any()
            same_image = pairs.images[half:] == pairs.images[:half]
            same_caption = pairs.captions[half:] == pairs.captions[:half]
            assert (same_image ^ same_caption).all()
    seen = np.concatenate([positives(batches) for batches in epochs])
    assert len(set(seen)) == len(seen) == CAPTIONS


def test_steps_have_equal_sizes_on_all_processes(dataset):
    sizes = [[len(pairs) for pairs in PairSampler(dataset, 8, 1, rank, 2).batches(0)] for rank in range(2)]
    assert sizes[0] == sizes[1]


def test_negatives_follow_the_originals_rule(dataset):
    """Half are wrong captions, half wrong images; other images and their captions are equally likely."""
    sampler = PairSampler(dataset, 8, seed=3)
    epochs = [sampler.negatives(epoch) for epoch in range(400)]
    images, captions = (
        np.stack([getattr(pairs, name) for pairs in epochs]) for name in ("images", "captions")
    )
    wrong_caption = images == CAPTION_IMAGE
    assert abs(wrong_caption.mean() - 0.5) < 0.01
    others = np.where(wrong_caption, CAPTION_IMAGE[captions], images)
    assert not (others == CAPTION_IMAGE).any() and not (others == 7).any()  # 7 has no captions
    times = np.bincount(others.ravel(), minlength=IMAGES)
    expected = 400 * (CAPTIONS - COUNTS) / (IMAGES - 2)
    expected[7] = 0
    assert (np.abs(times - expected) < 5 * np.sqrt(expected) + 1).all()
    # the captions of one image are drawn alike
    image = int(COUNTS.argmax())
    drawn = np.bincount(captions[wrong_caption], minlength=CAPTIONS)[captions_of(image)]
    assert drawn.min() > 0.6 * drawn.mean()


def test_an_epoch_follows_from_seed_and_number_and_goes_on_anywhere(dataset):
    def flat(seed, epoch, start=0):
        batches = PairSampler(dataset, 8, seed).batches(epoch)[start:]
        return [(pairs.images.tolist(), pairs.captions.tolist()) for pairs in batches]

    assert flat(1, 4) == flat(1, 4) and flat(1, 4)[5:] == flat(1, 4, start=5)
    assert flat(1, 4) != flat(1, 5) and flat(1, 4) != flat(2, 4)


def test_buckets_hold_pairs_of_like_length(dataset):
    def padding(bucket):
        batches = PairSampler(dataset, 8, 1, bucket=bucket).batches(0)
        lengths = [dataset.pair_lengths(pairs) for pairs in batches]
        return sum(len(part) * part.max() for part in lengths) / sum(map(np.sum, lengths))

    assert padding(True) < padding(False) - 0.1


def test_mined_lists_lose_what_is_right(dataset):
    captions_of_image = np.tile(np.arange(CAPTIONS), (IMAGES, 1))
    images_of_caption = np.tile(np.arange(IMAGES), (CAPTIONS, 1))
    hard = of_short_lists(dataset, captions_of_image, images_of_caption)
    for image in range(IMAGES):
        own = {dataset.captions[caption] for caption in captions_of(image)}
        for caption in range(CAPTIONS):
            right = dataset.captions[caption] in own
            assert (hard.captions_of_image[image, caption] == -1) == right
            assert (hard.images_of_caption[caption, image] == -1) == right


def test_hard_negatives_come_from_the_lists(dataset):
    last = IMAGES - 1
    hard = HardNegatives(np.full((IMAGES, 3), -1), np.full((CAPTIONS, 3), -1))
    hard.captions_of_image[5:] = [-1, 0, 1]  # the first captions are hard for all images from the sixth on
    hard.images_of_caption[:20] = [last, -1, -1]
    negatives = PairSampler(dataset, 8, 1, hard=hard).negatives(0)
    wrong_caption = negatives.images == CAPTION_IMAGE
    listed = CAPTION_IMAGE >= 5
    assert set(negatives.captions[wrong_caption & listed]) == {0, 1}
    assert set(negatives.images[~wrong_caption & (np.arange(CAPTIONS) < 20)]) == {last}
    # without any in the lists, as ever
    plain = PairSampler(dataset, 8, 1).negatives(0)
    rest = np.where(wrong_caption, ~listed, np.arange(CAPTIONS) >= 20)
    assert (negatives.captions[rest] == plain.captions[rest]).all()
    assert (negatives.images[rest] == plain.images[rest]).all()
    assert len(set(negatives.captions[wrong_caption & ~listed])) > 3
    # by half of the share, half as often
    half = PairSampler(dataset, 8, 1, hard=hard, hard_share=0.5).negatives(0)
    share = np.isin(half.captions, [0, 1])[wrong_caption & listed].mean()
    assert 0.3 < share < 0.7
    # and not before their epoch
    late = PairSampler(dataset, 8, 1, hard=hard, hard_from=2)
    for epoch, expected in ((1, PairSampler(dataset, 8, 1)), (2, PairSampler(dataset, 8, 1, hard=hard))):
        assert late.negatives(epoch).captions.tolist() == expected.negatives(epoch).captions.tolist()


@pytest.mark.parametrize("size", [2, 7, IMAGES + 1])
def test_neighbours_are_wrong_for_each_other(dataset, size):
    hard = neighbours(dataset, size)
    for image in range(IMAGES):
        group = [other for other in range(IMAGES) if other // size == image // size and other != image]
        own = {dataset.captions[caption] for caption in captions_of(image)}
        captions = {
            caption
            for other in group
            for caption in captions_of(other)
            if dataset.captions[caption] not in own
        }
        found = hard.captions_of_image[image]
        assert sorted(found[found >= 0]) == sorted(captions)
        for caption in captions_of(image):
            found = hard.images_of_caption[caption]
            right = {other for other in group if dataset.captions[caption] in texts_of(dataset, other)}
            assert sorted(found[found >= 0]) == sorted(set(group) - right)


def texts_of(dataset, image: int) -> set[str]:
    return {dataset.captions[caption] for caption in captions_of(image)}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_several_negatives_are_all_captions_or_all_images_and_differ_while_lists_last(dataset, count):
    hard = neighbours(dataset, 4)
    sampler = PairSampler(dataset, 8, 1, hard=hard, count=count)
    negatives = sampler.negatives(0)
    assert negatives.images.shape == negatives.captions.shape == (count, CAPTIONS)
    for caption, image in enumerate(CAPTION_IMAGE):
        images, captions = negatives.images[:, caption], negatives.captions[:, caption]
        if (images == image).all():
            drawn, listed = captions, hard.captions_of_image[image]
        else:
            assert (captions == caption).all()
            drawn, listed = images, hard.images_of_caption[caption]
        listed = set(listed.tolist()) - {-1}
        assert len(listed & set(drawn.tolist())) >= min(count, len(listed))
    for pairs in sampler.batches(0):
        match = dataset.batch(pairs)["match"].reshape(1 + count, -1)
        assert match[0].all() and not match[1:].any()


def test_lists_of_other_data_are_refused(dataset):
    of_images, of_captions = np.zeros((IMAGES, 2), int), np.zeros((CAPTIONS, 2), int)
    for lists in (
        (of_images[1:], of_captions),
        (of_images, of_captions + IMAGES),
        (of_images - 2, of_captions),
        (of_images[0], of_captions),
    ):
        with pytest.raises(ValueError, match="expected lists"):
            of_short_lists(dataset, *lists)


def test_in_a_batch_the_hardest_wrong_one_is_taken(dataset):
    captions = np.array([0, 1, 8, 30, 60, CAPTIONS - 1])  # the last says what the first says
    images = CAPTION_IMAGE[captions]
    batch = Pairs(np.tile(images, 2), np.tile(captions, 2))
    scores = np.random.default_rng(1).normal(size=(6, 6))
    scores[0, 5] = scores[5, 0] = 9  # the highest, but no negative
    taken = set()
    for seed in range(20):
        hardened = hardest_in_batch(dataset, batch, scores, np.random.default_rng(seed))
        assert hardened.images[:6].tolist() == images.tolist()
        assert hardened.captions[:6].tolist() == captions.tolist()
        for place in range(6):
            image, caption = int(hardened.images[6 + place]), int(hardened.captions[6 + place])
            texts = {dataset.captions[own] for own in captions_of(image)}
            assert dataset.captions[caption] not in texts
            wrong = ~dataset.is_own_sentence(images[:, None], captions)
            if image == images[place] and caption != captions[place]:
                best = max(np.flatnonzero(wrong[place]), key=lambda column: scores[place, column])
                assert caption == captions[best]
                taken.add("caption")
            else:
                best = max(np.flatnonzero(wrong[:, place]), key=lambda row: scores[row, place])
                assert image == images[best] and caption == captions[place]
                taken.add("image")
    assert taken == {"caption", "image"}


def test_a_batch_without_anything_wrong_keeps_its_negatives(dataset):
    captions = captions_of(int(COUNTS.argmax()))[:2]
    images = CAPTION_IMAGE[captions]
    batch = Pairs(np.concatenate([images, [3, 4]]), np.tile(captions, 2))
    hardened = hardest_in_batch(dataset, batch, np.zeros((2, 2)), np.random.default_rng(0))
    assert hardened.images.tolist() == batch.images.tolist()
    assert hardened.captions.tolist() == batch.captions.tolist()
    for scores in (np.zeros((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"expected scores \[2,2\]"):
            hardest_in_batch(dataset, batch, scores, np.random.default_rng(0))


def test_one_image_has_no_negative(tmp_path):
    np.save(tmp_path / "train_ims.npy", np.ones((2, 1, 3), np.float32))
    split = CaptionSplit("train", ["a", "b"], np.arange(2), ["dog", "tree"], np.zeros(2, np.int64))
    dataset = PairDataset(
        NpyFeatures(tmp_path / "train_ims.npy"), split, WordPiece([*MARKERS, "dog", "tree"]), None
    )
    with pytest.raises(UserError, match="1 image with captions in train, expected at least two"):
        PairSampler(dataset, 8, seed=1)
