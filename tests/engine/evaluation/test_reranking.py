"""Two-stage retrieval ranks as a plain sort of short list and rest does."""

import numpy as np
import pytest

from datasets.pairs import folds_of_images
from datasets.relevance import Relevance
from engine.evaluation.cross import evaluate_cross
from engine.evaluation.dual import Encoded, rank_encoded
from engine.evaluation.pair_scoring import score_blocks
from engine.evaluation.reranking import listed_blocks, rerank, short_list_ranks
from engine.evaluation.scores.shards import MemoryScores
from engine.ranking.short_lists import ShortLists
from engine.ranking.similarity import similarity_of
from tests.pair_data import PlainScorer, dense_scores, pair_dataset


@pytest.fixture
def dataset(tmp_path):
    return pair_dataset(tmp_path)


def two_stage(dataset, k, folds=1, tie_rule="against", levels=0, dual_weight=0.0, block_size=5, coarse=False):
    """Return the dual encoder's result and its dense scores, the re-ranked one, and the scorer."""
    random = np.random.default_rng(3)
    image, text = (
        random.standard_normal((n, 4)).astype(np.float32) for n in (13, len(set(dataset.captions)))
    )
    if coarse:  # many equal scores
        image, text = np.sign(image), np.sign(text)
    fold = folds_of_images(dataset.num_images, folds)
    lists = ShortLists(k, fold, fold[dataset.caption_image], dataset.sentence_ids)
    encoded = Encoded(image, text, dataset.sentence_ids, "cosine", similarity_of("cosine"))
    first = rank_encoded(encoded, dataset, "test", folds, tie_rule, block_size, lists=[lists])
    blocks = listed_blocks(dataset, lists, 17)
    store, model = MemoryScores(len(blocks)), PlainScorer(levels)
    score_blocks(model, dataset, blocks, store, 200)
    dual = (image @ text.T)[:, dataset.sentence_ids]
    return first, dual, rerank(dataset, lists, blocks, store, first, dual_weight, (0.25, 0.0)), model


def plain_rank(dual, cross, right, k, tie_rule, sentences=None):
    """Sort one query's list: by the dual encoder, then the first k (different) by the cross encoder."""
    order = sorted(range(len(dual)), key=lambda place: (-dual[place], place))
    names = order if sentences is None else [sentences[place] for place in order]
    first = list(dict.fromkeys(names))[:k]
    listed = [place for place, name in zip(order, names, strict=True) if name in first]
    rest = [place for place in order if place not in listed]
    count = {"against": lambda a, b: a >= b, "favour": lambda a, b: a > b}[tie_rule]
    for group, scores, before in ((listed, cross, 0), (rest, dual, len(listed))):
        best = max((scores[place] for place in group if right[place]), default=None)
        if best is not None:
            return before + sum(count(scores[place], best) for place in group if not right[place])
    raise AssertionError


@pytest.mark.parametrize("tie_rule", ["against", "favour"])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("k", [1, 4, 9, 500])
def test_ranks_are_those_of_plain_sorting(dataset, k, coarse, tie_rule):
    first, dual, again, _ = two_stage(dataset, k, tie_rule=tie_rule, levels=6, coarse=coarse)
    cross = dense_scores(dataset, 6)
    right = dataset.caption_image == np.arange(dataset.num_images)[:, None]
    found = again.result
    for image, rank in enumerate(found.i2t_ranks):
        assert rank == plain_rank(dual[image], cross[image], right[image], k, tie_rule, dataset.captions)
    for caption, rank in enumerate(found.t2i_ranks):
        assert rank == plain_rank(dual[:, caption], cross[:, caption], right[:, caption], k, tie_rule)
    if k == 1:  # there is nothing to put in order, and equal sentences stay equal
        assert coarse or found.metrics["i2t_r1"] == first.metrics["i2t_r1"]


@pytest.mark.parametrize("tie_rule", ["against", "favour"])
@pytest.mark.parametrize("k", [3, 9])
def test_ranks_follow_another_map_of_what_is_right(dataset, k, tie_rule):
    random = np.random.default_rng(5)
    right = random.random((dataset.num_images, dataset.num_captions)) < 0.1
    images, captions = right.shape
    right[random.integers(0, images, captions), np.arange(captions)] = True
    right[np.arange(images), random.integers(0, captions, images)] = True
    dataset.relevance = Relevance.of(right.shape, *np.nonzero(right), rule="file pairs.json")
    _, dual, again, _ = two_stage(dataset, k, tie_rule=tie_rule, levels=6)
    cross, found = dense_scores(dataset, 6), again.result
    for image, rank in enumerate(found.i2t_ranks):
        assert rank == plain_rank(dual[image], cross[image], right[image], k, tie_rule, dataset.captions)
    for caption, rank in enumerate(found.t2i_ranks):
        assert rank == plain_rank(dual[:, caption], cross[:, caption], right[:, caption], k, tie_rule)
    assert found.protocol["relevance"] == "file pairs.json"
    np.testing.assert_array_equal(found.sides["i2t_"].relevant, right.sum(axis=1))


def test_a_list_of_everything_is_the_cross_encoder_alone(dataset):
    _, _, again, model = two_stage(dataset, 500, folds=3)
    full = evaluate_cross(PlainScorer(), dataset, "test", folds=3)
    assert again.result.metrics == full.metrics and again.result.folds == full.folds
    assert again.pairs_scored == again.all_pairs == model.pairs == full.protocol["pairs_scored"]
    assert 10 < again.k <= max(full.protocol["fold_captions"])  # no list is longer than what there is


def test_shorter_lists_come_from_the_same_scores(dataset):
    _, _, again, model = two_stage(dataset, 8)
    assert [point.k for point in again.curve] == [1, 2, 3, 5, 8]
    for point in again.curve:
        _, _, alone, alone_model = two_stage(dataset, point.k)
        assert point.metrics == alone.result.metrics
        assert point.pairs_scored == alone.pairs_scored == alone_model.pairs
    assert again.curve[-1].pairs_scored == again.pairs_scored == model.pairs < again.all_pairs
    assert again.as_dict()["k"] == 8 and again.as_dict()["curve"][-1]["metrics"] == again.result.metrics


@pytest.mark.parametrize("block_size", [1, 3, 100])
@pytest.mark.parametrize("coarse", [False, True])
def test_short_lists_do_not_depend_on_the_tiles(dataset, block_size, coarse):
    fold = folds_of_images(dataset.num_images, 2)
    caption_fold = fold[dataset.caption_image]
    scores = np.random.default_rng(0).standard_normal((13, dataset.num_captions)).astype(np.float32)
    scores = np.sign(scores) if coarse else scores
    sentences = dataset.sentence_ids
    lists = ShortLists(4, fold, caption_fold, sentences)
    scores = scores[:, sentences]
    tiles = [
        (rows, columns)
        for rows in np.array_split(np.random.default_rng(1).permutation(13), -(-13 // block_size))
        for columns in np.array_split(np.random.default_rng(2).permutation(dataset.num_captions), 3)
    ]
    for rows, columns in tiles:
        lists.write(rows, columns, scores[np.ix_(rows, columns)])
    for query, (found, values) in enumerate(zip(lists.captions_of_image, lists.image_scores, strict=True)):
        rivals = np.flatnonzero(caption_fold == fold[query])
        rivals = [place for place in rivals if sentences[place] not in sentences[rivals[rivals < place]]]
        expected = sorted(rivals, key=lambda place: (-scores[query, place], place))[:4]
        assert found.tolist() == expected and values.tolist() == scores[query, expected].tolist()
    for query, found in enumerate(lists.images_of_caption):
        rivals = np.flatnonzero(fold == caption_fold[query])
        assert found.tolist() == sorted(rivals, key=lambda place: (-scores[place, query], place))[:4]


def test_a_weight_mixes_the_dual_encoders_scores_in(dataset):
    _, dual, again, _ = two_stage(dataset, 6, dual_weight=0.25)
    cross = dense_scores(dataset) + np.float32(0.25) * dual
    right = dataset.caption_image == np.arange(dataset.num_images)[:, None]
    for image, rank in enumerate(again.result.i2t_ranks):
        assert rank == plain_rank(dual[image], cross[image], right[image], 6, "against", dataset.captions)
    _, _, plain, _ = two_stage(dataset, 6)
    assert plain.weighted == {0.25: again.result.metrics, 0.0: plain.result.metrics}


def test_the_average_of_ties_in_a_list():
    right = np.array([[False, True, False], [False, False, False]])
    present = np.array([[True, True, True], [True, True, False]])
    scores = np.array([[0.5, 0.5, 0.9], [0.1, 0.2, 0.0]])
    found = short_list_ranks(right, present & ~right, scores, np.array([9.0, 6.5]), "average")
    assert found.tolist() == [1.5, 6.5]
