"""Swapped captions: half right for whoever ignores order, right for whoever sees it."""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest

from config.errors import UserError
from datasets.text import Vocabulary
from engine.swapped import swapped_accuracy


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


def test_a_model_that_sees_the_order_tells_all_pairs_apart():
    assert swapped_accuracy(Reader(True), VOCABULARY, Images(), PAIRS) == {
        "all": 100,
        "colours": 100,
        "sides": 100,
    }


def test_a_bag_of_words_has_fifty_percent():
    assert swapped_accuracy(Reader(False), VOCABULARY, Images(), PAIRS) == {
        "all": 50,
        "colours": 50,
        "sides": 50,
    }


def test_a_pair_of_an_unknown_image_is_named():
    with pytest.raises(UserError, match="'z', which is not in the test split"):
        swapped_accuracy(Reader(True), VOCABULARY, Images(), [Pair("z", "sides", "red dog", "dog red")])
