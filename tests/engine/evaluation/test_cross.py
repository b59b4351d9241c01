"""A cross encoder's evaluation finds what plain loops find in the matrix of all its scores."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.pairs import Pairs
from engine.evaluation.cross import (
    candidate_blocks,
    cross_blocks,
    evaluate_candidates,
    evaluate_cross,
    rank_cross,
)
from engine.evaluation.pair_scoring import score_blocks, score_pairs
from engine.evaluation.result import format_table
from engine.evaluation.scores.shards import MemoryScores
from engine.ranking.metrics import ranks, summarize
from engine.runs.run_log import validation_line
from tests.pair_data import PlainScorer, dense_scores, pair_dataset


@pytest.fixture
def dataset(tmp_path):
    return pair_dataset(tmp_path)


def metrics_of(scores, dataset, images, tie_rule):
    """The metrics of some images and their captions, from the dense scores."""
    captions = np.flatnonzero(np.isin(dataset.caption_image, images))
    part, owners = scores[np.ix_(images, captions)], dataset.caption_image[captions]
    return summarize(ranks(part, images, owners, tie_rule), ranks(part.T, owners, images, tie_rule))


@pytest.mark.parametrize("block_pairs", [7, 100, 5000])
@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("levels", [0, 5])
def test_metrics_are_those_of_the_dense_scores(dataset, block_pairs, tie_rule, levels):
    model = PlainScorer(levels)
    model.train()
    result = evaluate_cross(
        model, dataset, "test", tie_rule=tie_rule, batch_tokens=90, block_pairs=block_pairs
    )
    images = np.arange(dataset.num_images)
    assert result.metrics == pytest.approx(
        metrics_of(dense_scores(dataset, levels), dataset, images, tie_rule), rel=1e-12
    )
    assert model.training
    sentences = len(set(dataset.captions))
    assert sentences < dataset.num_captions
    assert model.pairs == result.protocol["pairs_scored"] == dataset.num_images * sentences
    assert model.largest_batch < 90 + 30  # the longest pair has 20 tokens and 3 regions


def test_folds_score_only_what_competes(dataset):
    model, scores = PlainScorer(), dense_scores(dataset)
    result = evaluate_cross(model, dataset, "test", folds=3, batch_tokens=200, block_pairs=11)
    slices = [np.arange(0, 5), np.arange(5, 9), np.arange(9, 13)]
    expected = [metrics_of(scores, dataset, images, "against") for images in slices]
    for found, fold in zip(result.folds, expected, strict=True):
        assert found == pytest.approx(fold, rel=1e-12)
    assert result.metrics["rsum"] == pytest.approx(np.mean([fold["rsum"] for fold in expected]))
    pairs = sum(
        len(images)
        * len({dataset.captions[c] for c in np.flatnonzero(np.isin(dataset.caption_image, images))})
        for images in slices
    )
    assert model.pairs == result.protocol["pairs_scored"] == pairs


def test_saved_scores_are_all_scores(dataset, tmp_path):
    blocks = cross_blocks(dataset, 1, 64)
    store = MemoryScores(len(blocks))
    score_blocks(PlainScorer(), dataset, blocks, store, 500)
    rank_cross(blocks, store, dataset, "test", 3, scores_path=tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as saved:
        np.testing.assert_array_equal(saved["scores"], dense_scores(dataset))
        assert saved["caption_image_ids"].tolist() == [
            dataset.image_ids[image] for image in dataset.caption_image
        ]


def test_progress_counts_the_pairs_of_every_batch(dataset):
    calls = []
    result = evaluate_cross(
        PlainScorer(),
        dataset,
        "test",
        batch_tokens=300,
        block_pairs=50,
        progress=lambda *call: calls.append(call),
    )
    total = result.protocol["pairs_scored"]
    assert {stage for stage, _, _ in calls} == {"score pairs"} and {call[2] for call in calls} == {total}
    done = [call[1] for call in calls]
    assert done == sorted(done) and done[-1] == total and len(done) > total / 50


@pytest.mark.parametrize("tie_rule", ["against", "favour"])
def test_candidates_rank_as_in_the_original(dataset, tie_rule):
    random = np.random.default_rng(1)
    lists = [random.choice(dataset.num_captions, 6, replace=False) for _ in range(dataset.num_images)]
    candidates = Pairs(np.repeat(np.arange(dataset.num_images), 6), np.concatenate(lists))
    scores = dense_scores(dataset, 4)
    expected = []
    for image, captions in enumerate(lists):
        own = [scores[image, c] for c in captions if dataset.caption_image[c] == image]
        wrong = [scores[image, c] for c in captions if dataset.caption_image[c] != image]
        ahead = np.greater_equal if tie_rule == "against" else np.greater
        expected.append(sum(bool(ahead(score, max(own))) for score in wrong) if own else 6)
    assert 6 in expected and min(expected) < 6
    model = PlainScorer(4)
    result = evaluate_candidates(model, dataset, candidates, "dev", tie_rule, 200, 16)
    assert result.i2t_ranks.tolist() == expected and result.t2i_ranks is None
    assert result.metrics == summarize(np.array(expected))
    assert set(result.metrics) == {
        *(f"i2t_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")),
        "rsum",
        "mean_recall",
    }
    assert model.pairs == candidate_blocks(dataset, candidates, 16).num_pairs <= len(candidates)
    assert "behind all of them" in format_table(result) and "text to image" not in format_table(result)
    assert "text-to-image" not in validation_line(1, result.metrics, None)


def test_an_image_is_read_once_a_batch(dataset):
    model = PlainScorer()
    pairs = Pairs(np.repeat(np.arange(4), 10), np.tile(np.arange(10), 4))
    score_pairs(model, dataset, pairs, batch_tokens=10_000)
    assert model.pairs == 40 and model.images_read == 4


def test_broken_weights_and_impossible_folds_are_refused(dataset):
    class Broken(PlainScorer):
        def score_pairs(self, batch):
            return super().score_pairs(batch) / 0.0

    with pytest.raises(UserError, match=r"got NaN or infinity for image \d+.jpg with caption \d+ \('word"):
        evaluate_cross(Broken(), dataset, "test")
    with pytest.raises(UserError, match="at most one fold per image"):
        evaluate_cross(PlainScorer(), dataset, "test", folds=14)
