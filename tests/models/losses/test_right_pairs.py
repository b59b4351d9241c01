"""Pairs that a map of right pairs holds are no negatives: in a batch, a queue, batches of a data set."""

import numpy as np
import paddle
import pytest

from datasets.captions.load import CaptionSplit
from datasets.features.npy import NpyFeatures
from datasets.relevance import Relevance
from datasets.retrieval_dataset import RetrievalDataset
from datasets.words.vocabulary import Vocabulary
from models.losses.memory_queue import MemoryQueue
from models.losses.ranking import HingeLoss, hinge_loss, right_pairs

WORDS = [f"w{number}" for number in range(9)]
CAPTIONS = [f"w{number}" for number in range(8)]
OWNER = np.arange(8) // 2
RIGHT = np.eye(4, dtype=bool)[:, OWNER] | (np.random.default_rng(2).random((4, 8)) < 0.2)


@pytest.fixture
def dataset(tmp_path):
    np.save(tmp_path / "train_ims.npy", np.eye(4, dtype=np.float32))
    split = CaptionSplit(
        "train",
        list("abcd"),
        np.arange(4),
        CAPTIONS,
        OWNER,
        relevance=Relevance.of(RIGHT.shape, *np.nonzero(RIGHT)),
    )
    vocabulary = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *WORDS], "simple", "vsepp", 1)
    return RetrievalDataset(NpyFeatures(tmp_path / "train_ims.npy"), split, vocabulary)


def test_a_batch_names_what_is_right_for_its_images_and_captions(dataset):
    batch = dataset.batch(np.array([5, 0, 3]))
    for row, caption in enumerate((5, 0, 3)):
        image = OWNER[caption]
        sentences = [each for each in batch["right_sentences"][row].tolist() if each >= 0]
        assert sentences == dataset.sentence_ids[np.flatnonzero(RIGHT[image])].tolist()
        images = [each for each in batch["right_images"][row].tolist() if each >= 0]
        assert images == np.flatnonzero(RIGHT[:, caption]).tolist()


def test_right_pairs_of_a_batch_cost_nothing(dataset):
    captions = np.array([5, 0, 3, 6])
    tensors = {name: paddle.to_tensor(array) for name, array in dataset.batch(captions).items()}
    expected = RIGHT[OWNER[captions]][:, captions] & ~np.eye(4, dtype=bool)
    assert expected.any()
    found = right_pairs(tensors["right_sentences"], tensors["sentence_id"]).numpy()
    np.testing.assert_array_equal(found, expected)
    scores = paddle.to_tensor(np.random.default_rng(0).random((4, 4)).astype(np.float32))
    loss = HingeLoss(0.2, hard_negative=False, sum_epochs=0, mask_duplicates=True)
    costs = loss({"scores": scores}, tensors, 0)["hinge"]
    assert float(costs) == float(hinge_loss(scores, 0.2, False, paddle.to_tensor(expected)))


def test_right_pairs_of_a_queue_are_no_negatives(dataset):
    queue = MemoryQueue(8, 3, 0, lambda image, text: image @ text.T)
    ones = paddle.ones([2, 3])
    first, second = (
        {name: paddle.to_tensor(array) for name, array in dataset.batch(captions).items()}
        for captions in (np.array([1, 4]), np.array([6, 2]))
    )
    queue.add(ones, ones, first["image_id"], first["sentence_id"])
    scores = queue.scores(
        ones,
        ones,
        second["image_id"],
        second["sentence_id"],
        second["right_sentences"],
        second["right_images"],
    )
    expected = [
        [bool(OWNER[new] == OWNER[old] or RIGHT[OWNER[new], old] or RIGHT[OWNER[old], new]) for old in (1, 4)]
        for new in (6, 2)
    ]
    assert scores.not_negative.numpy().tolist() == expected
