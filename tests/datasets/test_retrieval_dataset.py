"""A batch holds what its captions and images hold, whatever their order."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.retrieval_dataset import RetrievalDataset
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import MARKERS, WordPiece
from tests.closeness import assert_close

CAPTIONS = ["a dog runs", "A dog runs", "a red dog", "the cat sleeps on the red mat", "a blue dog", "cat"]
VOCABULARY = Vocabulary(
    ["<pad>", "<start>", "<end>", "<unk>", "a", "dog", "runs", "red", "the", "cat", "on", "mat"],
    "simple",
    "vsepp",
    1,
)


@pytest.fixture
def open_dataset(tmp_path):
    """Opener of six captions of three images, whose feature rows stand in the order 2, 0, 1."""

    def open_it(shape=(3, 4), **options):
        stored = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.save(tmp_path / "train_ims.npy", stored)
        split = CaptionSplit(
            "train", ["x.jpg", "y.jpg", "z.jpg"], np.array([2, 0, 1]), CAPTIONS, np.array([0, 0, 1, 1, 2, 2])
        )
        return RetrievalDataset(NpyFeatures(tmp_path / "train_ims.npy"), split, VOCABULARY, **options), stored

    return open_it


def test_a_batch_equals_its_captions_one_by_one(open_dataset):
    dataset, stored = open_dataset()
    indices = np.array([3, 0, 5, 4])
    batch = dataset.batch(indices)

    rows = [2, 0, 1]
    longest = max(len(VOCABULARY.encode(CAPTIONS[index])) for index in indices)
    assert batch["token_ids"].shape == (4, longest)
    for row, index in enumerate(indices):
        ids = VOCABULARY.encode(CAPTIONS[index])
        image = index // 2
        assert batch["token_ids"][row].tolist() == ids + [0] * (longest - len(ids))
        assert batch["text_len"][row] == len(ids)
        assert batch["image_id"][row] == image
        np.testing.assert_array_equal(batch["features"][row], stored[rows[image]])
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "features": "float32",
        "token_ids": "int64",
        "text_len": "int64",
        "image_id": "int64",
        "sentence_id": "int64",
    }


def test_sentences_are_equal_when_their_token_ids_are(open_dataset):
    dataset, _ = open_dataset()
    for first, a in enumerate(CAPTIONS):
        for second, b in enumerate(CAPTIONS):
            same = VOCABULARY.encode(a) == VOCABULARY.encode(b)
            assert (dataset.sentence_ids[first] == dataset.sentence_ids[second]) == same
    assert dataset.sentence_ids[0] == dataset.sentence_ids[1]  # they differ in case alone


def test_regions_are_pooled_or_kept(open_dataset):
    pooled, stored = open_dataset(shape=(3, 2, 4))
    assert_close(pooled.image_batch(np.array([1]))["features"], stored[[0]].mean(axis=1), 2)

    kept, stored = open_dataset(shape=(3, 2, 4), pool_regions=False)
    batch = kept.batch(np.array([4, 0]))
    np.testing.assert_array_equal(batch["regions"][batch["image_row"]], stored[[1, 2]])
    assert batch["num_regions"].tolist() == [2, 2]
    assert "features" not in batch


def test_long_captions_are_cut_and_keep_their_end(open_dataset):
    dataset, _ = open_dataset(max_seq_len=5)
    assert dataset.num_captions == 6
    assert dataset.lengths.max() == 5
    batch = dataset.text_batch(np.array([3]))
    assert batch["token_ids"].tolist() == [[1, 8, 9, 3, 2]]  # <start> the cat <unk> <end>


def test_dropped_captions_leave_the_others_in_place(open_dataset):
    dataset, _ = open_dataset(max_seq_len=5, long_captions="drop")
    assert dataset.num_dropped == 1
    assert dataset.captions == [caption for caption in CAPTIONS if caption != CAPTIONS[3]]
    assert dataset.caption_image.tolist() == [0, 0, 1, 2, 2]
    assert dataset.batch(np.array([3]))["token_ids"].tolist() == [VOCABULARY.encode("a blue dog")]
    assert dataset.num_images == 3
    assert "1 longer ones dropped" in dataset.describe()


def test_dropping_every_caption_is_refused(open_dataset):
    with pytest.raises(UserError, match=r"all 6 captions of train.*MAX_SEQ_LEN \(2"):
        open_dataset(max_seq_len=2, long_captions="drop")


def test_a_sentence_that_an_image_repeats_is_an_item_once(open_dataset):
    dataset, _ = open_dataset(distinct_captions=True)
    assert dataset.captions == [CAPTIONS[index] for index in (0, 2, 3, 4, 5)]  # the second repeats the first
    assert dataset.caption_image.tolist() == [0, 1, 1, 2, 2]
    assert (dataset.num_dropped, dataset.num_repeats) == (0, 1)
    assert "5 captions (1 repeated ones left out), 5 different" in dataset.describe()


def test_what_is_left_out_is_told_apart(open_dataset):
    dataset, _ = open_dataset(max_seq_len=5, long_captions="drop", distinct_captions=True)
    assert "4 captions (1 longer ones dropped, 1 repeated ones left out" in dataset.describe()
    assert open_dataset()[0].describe().endswith("6 captions, 5 different sentences, 10.0% of words unknown")


def test_other_texts_are_read_as_those_of_the_split_and_belong_to_no_image(open_dataset):
    dataset, _ = open_dataset(max_seq_len=5)
    other = dataset.with_texts(["a dog", CAPTIONS[3], "a dog"])
    batch = other.text_batch(np.arange(3))
    assert batch["token_ids"].tolist() == [[1, 4, 5, 2, 0], [1, 8, 9, 3, 2], [1, 4, 5, 2, 0]]
    assert batch["text_len"].tolist() == [4, 5, 4] and other.sentence_ids.tolist() == [0, 1, 0]
    assert (other.caption_image == -1).all()
    np.testing.assert_array_equal(
        other.image_batch(np.array([2]))["features"], dataset.image_batch(np.array([2]))["features"]
    )
    assert dataset.num_captions == 6 and dataset.captions == CAPTIONS


def test_word_pieces_are_framed_and_cut_like_words(tmp_path):
    np.save(tmp_path / "train_ims.npy", np.ones((1, 4), np.float32))
    split = CaptionSplit("train", ["x.jpg"], np.array([0]), ["a dog runs", "a dog"], np.array([0, 0]))
    words = WordPiece([*MARKERS, "a", "dog", "runs"])
    dataset = RetrievalDataset(NpyFeatures(tmp_path / "train_ims.npy"), split, words, max_seq_len=4)
    cls, sep, pad = words.cls_id, words.sep_id, words.pad_id
    a, dog = words.pieces.index("a"), words.pieces.index("dog")
    assert dataset.text_batch(np.array([0, 1]))["token_ids"].tolist() == [
        [cls, a, dog, sep],
        [cls, a, dog, sep],
    ]
    assert dataset.lengths.tolist() == [4, 4] and pad == 0
