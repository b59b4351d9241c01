"""Every pair to be scored is in one block, beside pairs of similar length; a block is a pure function."""

import numpy as np
import pytest

from datasets.pairs import CrossPairs, JoinedPairs, ListedPairs, Pairs, candidate_pairs, top_candidates

RANDOM = np.random.default_rng(0)
IMAGE_LENGTHS, CAPTION_LENGTHS = RANDOM.integers(10, 60, size=7), RANDOM.integers(5, 30, size=23)


def keys(pairs: Pairs) -> list[int]:
    return (pairs.images * 100 + pairs.captions).tolist()


def padding(blocks: list[Pairs], batch_size: int) -> float:
    """Positions computed for each real one, with tags, regions and captions padded to a batch's longest."""
    computed = real = 0
    for block in blocks:
        for batch in block.batches(batch_size):
            images, captions = IMAGE_LENGTHS[batch.images], CAPTION_LENGTHS[batch.captions]
            computed += len(batch) * (images.max() + captions.max())
            real += (images + captions).sum()
    return computed / real


def all_blocks(blocks: CrossPairs | ListedPairs) -> list[Pairs]:
    return [blocks.block(index) for index in range(len(blocks))]


@pytest.mark.parametrize("block_pairs", [1, 10, 23, 50, 161, 1000])
def test_blocks_hold_each_image_with_each_caption_once(block_pairs):
    blocks = CrossPairs(np.arange(7), np.arange(23), IMAGE_LENGTHS, CAPTION_LENGTHS, block_pairs)
    sizes = [len(blocks.block(index)) for index in range(len(blocks))]
    assert sum(sizes) == blocks.num_pairs == 161 and max(sizes) <= block_pairs
    seen = [key for index in range(len(blocks)) for key in keys(blocks.block(index))]
    assert sorted(seen) == sorted(100 * image + caption for image in range(7) for caption in range(23))


def test_a_block_follows_from_its_number_alone():
    first, again = (
        CrossPairs(np.arange(7), np.arange(23), IMAGE_LENGTHS, CAPTION_LENGTHS, 10) for _ in range(2)
    )
    for index in reversed(range(len(first))):
        assert keys(first.block(index)) == keys(again.block(index))


def test_some_images_and_captions_of_a_data_set():
    images, captions = np.array([5, 1]), np.array([20, 3, 11])
    blocks = CrossPairs(images, captions, IMAGE_LENGTHS[images], CAPTION_LENGTHS[captions], 4)
    seen = [key for index in range(2) for key in keys(blocks.block(index))]
    assert sorted(seen) == [103, 111, 120, 503, 511, 520]


def test_neighbours_are_of_like_length_and_share_images():
    blocks = all_blocks(CrossPairs(np.arange(7), np.arange(23), IMAGE_LENGTHS, CAPTION_LENGTHS, 64))
    shuffled = Pairs(*np.divmod(np.random.default_rng(1).permutation(161), 23))
    assert padding(blocks, 8) < 1.1 and padding([shuffled], 8) > 1.25
    for block in blocks:
        for batch in block.batches(8):
            assert len(set(batch.images)) <= 2


def test_listed_pairs_come_once_next_to_those_of_like_length():
    listed = Pairs(RANDOM.integers(7, size=90), RANDOM.integers(23, size=90))
    blocks = ListedPairs(listed, IMAGE_LENGTHS, CAPTION_LENGTHS, 16)
    seen = [key for index in range(len(blocks)) for key in keys(blocks.block(index))]
    assert sorted(seen) == sorted(set(keys(listed))) and blocks.num_pairs == len(seen)
    assert padding(all_blocks(blocks), 8) < 1.2
    order = [
        seen[0] // 100,
        *[b // 100 for a, b in zip(seen[:-1], seen[1:], strict=True) if a // 100 != b // 100],
    ]
    assert sorted(order) == sorted(set(order))  # an image's pairs follow each other
    assert IMAGE_LENGTHS[order].tolist() == sorted(IMAGE_LENGTHS[order])


def test_joined_sets_keep_their_blocks():
    parts = [
        CrossPairs(np.arange(3), np.arange(4), np.ones(3), np.ones(4), 5),
        ListedPairs(Pairs(np.array([6]), np.array([9])), IMAGE_LENGTHS, CAPTION_LENGTHS, 5),
        CrossPairs(np.arange(2), np.arange(23), np.ones(2), np.ones(23), 50),
    ]
    joined = JoinedPairs(parts)
    assert len(joined) == 3 + 1 + 1 and joined.num_pairs == 12 + 1 + 46
    expected = [keys(part.block(index)) for part in parts for index in range(len(part))]
    assert [keys(joined.block(index)) for index in range(len(joined))] == expected


def test_candidates_of_both_directions():
    pairs = candidate_pairs(np.array([[2, 0], [1, -1]]), np.array([[0], [1], [1]]))
    assert list(zip(pairs.images.tolist(), pairs.captions.tolist(), strict=True)) == [
        *((0, 2), (0, 0), (1, 1)),
        *((0, 0), (1, 1), (1, 2)),
    ]
    one = candidate_pairs(None, np.array([[1], [0]]))
    assert one.images.tolist() == [1, 0] and one.captions.tolist() == [0, 1]


@pytest.mark.parametrize("k", [0, 1, 3, 8, 50])
def test_top_candidates_are_the_highest_and_of_equals_the_first(k):
    scores = np.random.default_rng(2).integers(4, size=(9, 8)).astype(np.float32)
    found = top_candidates(scores, k)
    assert found.shape == (9, min(k, 8))
    for row, columns in zip(scores, found.tolist(), strict=True):
        assert columns == sorted(range(8), key=lambda column: (-row[column], column))[:k]


def test_scores_that_are_no_numbers_have_no_highest():
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        top_candidates(np.array([[1.0, 2.0], [np.nan, 0.0]]), 1)
