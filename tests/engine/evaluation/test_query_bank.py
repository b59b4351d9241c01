"""Scores lose what images and texts score with a bank of queries; what is near to all no longer wins."""

import math

import numpy as np
import pytest

from engine.evaluation import query_bank
from engine.evaluation.dual import Encoded
from engine.evaluation.query_bank import normalised
from engine.ranking.similarity import similarity_of
from tests.closeness import SINGLE, rounding

T = 0.1


def embeddings(random, measure, images, texts, width=6):
    image, text = (random.standard_normal((count, width)).astype(np.float32) for count in (images, texts))
    for side in (image, text):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    return Encoded(image, text, np.arange(texts), measure, similarity_of(measure))


def expected_by_loops(scores):
    """Return T log mean exp(score / T) of a list of scores."""
    return T * math.log(sum(math.exp(score / T) for score in scores) / len(scores))


@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize("block", [3, 1024])
def test_a_score_loses_what_its_image_and_its_text_score_with_the_bank(measure, block, monkeypatch):
    monkeypatch.setattr(query_bank, "_BLOCK", block)
    random = np.random.default_rng(0)
    encoded, bank = embeddings(random, measure, 4, 5), embeddings(random, measure, 7, 8)
    found, entry = normalised(encoded, bank, "train", T)
    assert entry == {"query_bank": {"split": "train", "images": 7, "sentences": 8, "temperature": T}}
    plain = encoded.similarity(encoded.image, encoded.text)
    with_texts = encoded.similarity(encoded.image, bank.text)
    with_images = encoded.similarity(bank.image, encoded.text)
    scores = found.similarity(found.image, found.text)
    scale = max(np.abs(each).max() for each in (plain, with_texts, with_images))
    for row in range(4):
        for column in range(5):
            expected = plain[row, column] - expected_by_loops(with_texts[row].tolist())
            expected -= expected_by_loops(with_images[:, column].tolist())
            # Two rounded parts and two differences of numbers of up to three times the scale.
            assert abs(scores[row, column] - expected) <= rounding(4, SINGLE) * 3 * scale


def test_an_image_that_is_near_to_every_query_no_longer_hides_the_right_one():
    hub, right, other = np.eye(3, dtype=np.float32)
    texts = np.stack([0.7 * hub + 0.6 * right, 0.7 * hub + 0.6 * other, 0.7 * hub + 0.7 * other])
    images = np.stack([hub, right, other])
    encoded = Encoded(images, texts, np.arange(3), "cosine", similarity_of("cosine"))
    assert encoded.similarity(images, texts)[:, 0].argmax() == 0
    found, _ = normalised(encoded, encoded, "train", T)
    assert found.similarity(found.image, found.text)[:, 0].argmax() == 1
