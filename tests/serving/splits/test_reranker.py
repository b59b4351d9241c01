"""Hits are put in the order of a cross encoder, each with its score and the place that it had."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.pairs import Pairs
from engine.evaluation.pair_scoring import score_pairs
from serving.search.searcher import Hit
from serving.splits.reranker import Reranker
from tests.pair_data import PlainScorer, dense_scores, pair_dataset


@pytest.fixture
def dataset(tmp_path):
    return pair_dataset(tmp_path)


def test_pictures_for_a_sentence_that_is_in_no_split(dataset):
    hits = [Hit(f"{row}.jpg", 0.9 - row / 100) for row in (4, 0, 7, 2)]
    text = "word3 word9 word1"
    found = Reranker(PlainScorer(), dataset, 100).images_for_text(text, hits)
    rows = np.array([4, 0, 7, 2])
    scores = score_pairs(PlainScorer(), dataset.with_texts([text]), Pairs(rows, np.zeros(4, int)), 1000)
    order = np.argsort(-scores)
    assert [hit.name for hit in found] == [f"{row}.jpg" for row in rows[order]]
    assert [hit.score for hit in found] == scores[order].tolist()
    assert [hit.before for hit in found] == (order + 1).tolist()


def test_sentences_for_a_picture_stay_marked(dataset):
    captions = [0, 5, 9]
    hits = [Hit(dataset.captions[caption], 0.5, right=caption == 5) for caption in captions]
    found = Reranker(PlainScorer(), dataset, 100).captions_for_image("3.jpg", hits)
    scores = dense_scores(dataset)[3, captions]
    assert [hit.score for hit in found] == sorted(scores.tolist(), reverse=True)
    assert [hit.name for hit in found if hit.right] == [dataset.captions[5]]


def test_a_weight_keeps_some_of_the_first_order(dataset):
    hits = [Hit("4.jpg", 90.0), Hit("0.jpg", 1.0), Hit("7.jpg", -90.0)]
    found = Reranker(PlainScorer(), dataset, 100, dual_weight=0.5).images_for_text("word1", hits)
    assert [hit.name for hit in found] == ["4.jpg", "0.jpg", "7.jpg"] and found[0].score > 44


def test_a_picture_from_elsewhere_has_nothing_to_read(dataset):
    with pytest.raises(UserError, match="expected an image of the split with EVAL.RERANK_DIR"):
        Reranker(PlainScorer(), dataset, 100).captions_for_image(None, [Hit("a", 0.5)])
