"""Swapped captions: half right for whoever ignores order, right for whoever sees it."""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.pairs import Pairs
from datasets.words.packed_tokens import PackedTokens
from datasets.words.vocabulary import Vocabulary
from engine.evaluation.dual import encode_images
from engine.evaluation.pair_scoring import score_pairs
from engine.evaluation.swapped import cross_swapped_scores, rows_of, swapped_accuracy, swapped_scores
from tests.pair_data import PlainScorer, pair_dataset


@dataclass
class Pair:
    image_id: str
    kind: str
    caption: str
    swapped: str


PAIRS = [
    Pair("x", "sides", "red left blue", "blue left red"),
    Pair("y", "sides", "blue left red", "red left blue"),
    Pair("x", "colours", "red dog", "dog red"),
]
VOCABULARY = Vocabulary.build([pair.caption for pair in PAIRS], "simple", 1, "vsepp")


class Images:
    """Two images; the features of x and y point at what their captions begin with."""

    name, image_ids, num_images = "test", ["x", "y"], 2

    def image_batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        features = np.zeros((2, len(VOCABULARY)), np.float32)
        features[0, VOCABULARY.encode("red")[1]] = 1
        features[1, VOCABULARY.encode("blue")[1]] = 1
        return {"features": features[rows]}

    def with_texts(self, texts: list[str]) -> "Images":
        other = Images()
        other.texts = PackedTokens.of(map(VOCABULARY.encode, texts))
        return other

    def text_batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.texts.batch(rows, VOCABULARY.pad_id)


class Reader(paddle.nn.Layer):
    """Encode a caption as its first word, or as the set of its words; an image as its features."""

    def __init__(self, first_word_alone: bool):
        super().__init__()
        self.first_word_alone = first_word_alone

    def encode_image(self, batch):
        return batch["features"]

    def encode_text(self, batch):
        words = paddle.nn.functional.one_hot(batch["token_ids"], len(VOCABULARY))
        return words[:, 1] if self.first_word_alone else words.sum(axis=1)

    def similarity(self, image, text):
        return image @ text.T


def told_apart(model, pairs):
    images = encode_images(model, Images())[rows_of(Images(), pairs)]
    return swapped_accuracy(swapped_scores(model, Images(), pairs, images), pairs)


def test_a_model_that_sees_the_order_tells_all_pairs_apart():
    assert told_apart(Reader(True), PAIRS) == {
        "all": 100,
        "colours": 100,
        "sides": 100,
    }


def test_a_bag_of_words_has_fifty_percent():
    assert told_apart(Reader(False), PAIRS) == {
        "all": 50,
        "colours": 50,
        "sides": 50,
    }


def test_a_pair_of_an_unknown_image_is_named():
    with pytest.raises(UserError, match="'z', which is not in the test split"):
        told_apart(Reader(True), [Pair("z", "sides", "red dog", "dog red")])


def test_a_cross_encoder_scores_each_text_with_its_image(tmp_path):
    dataset = pair_dataset(tmp_path)
    texts = [
        ("7.jpg", "word1 word2", "word2 word1"),
        ("0.jpg", "word3", "word4"),
        ("7.jpg", "word5", "word6"),
    ]
    pairs = [Pair(image_id, "sides", true, false) for image_id, true, false in texts]
    scores = cross_swapped_scores(PlainScorer(), dataset, pairs, batch_tokens=20)
    assert scores.shape == (2, 3)
    for side in range(2):
        for place, (image_id, *sentences) in enumerate(texts):
            one = dataset.with_texts([sentences[side]])
            pair = Pairs(np.array([int(image_id.removesuffix(".jpg"))]), np.array([0]))
            assert scores[side, place] == score_pairs(PlainScorer(), one, pair, 100)[0]
    with pytest.raises(UserError, match="'x', which is not in the test split"):
        cross_swapped_scores(PlainScorer(), dataset, PAIRS[:1], 100)
