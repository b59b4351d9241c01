"""Ranks and recalls, against plain loops and by hand."""

import math

import numpy as np
import pytest

from engine.ranking.metrics import mean_rank, median_rank, ranks, recall_at_k, summarize


def ranks_by_loops(scores, query_ids, gallery_ids, tie_rule):
    """State the definition once more, one comparison at a time."""
    found = []
    for row, query in zip(scores, query_ids, strict=True):
        best = max(score for score, item in zip(row, gallery_ids, strict=True) if item == query)
        rivals = [score for score, item in zip(row, gallery_ids, strict=True) if item != query]
        against = sum(score >= best for score in rivals)
        favour = sum(score > best for score in rivals)
        found.append({"against": against, "favour": favour, "average": (against + favour) / 2}[tie_rule])
    return found


def test_rank_is_the_number_of_irrelevant_items_ahead():
    scores = [[0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.9, 0.2, 0.5]]
    assert ranks(scores, ["a", "b", "c"], ["a", "b", "c"]).tolist() == [0, 2, 1]


def test_of_several_relevant_items_the_best_one_counts():
    assert ranks([[0.1, 0.8, 0.5, 0.9]], ["cat"], ["cat", "cat", "dog", "bird"]).tolist() == [1]


def test_relevant_items_are_not_ahead_of_each_other():
    assert ranks([[0.3, 0.9, 0.8, 0.7]], [7], [5, 7, 7, 7]).tolist() == [0]


@pytest.mark.parametrize(("tie_rule", "expected"), [("against", 3), ("favour", 1), ("average", 2)])
def test_tie_rules_differ_in_what_scores_the_same(tie_rule, expected):
    scores = [[0.5, 0.7, 0.5, 0.5, 0.1]]  # relevant, ahead, tied, tied, behind
    assert ranks(scores, [0], [0, 1, 2, 3, 4], tie_rule) == [expected]


def test_a_model_that_gives_one_score_to_all_finds_nothing():
    scores = np.ones((4, 4))
    assert recall_at_k(ranks(scores, range(4), range(4)), 1) == 0
    assert recall_at_k(ranks(scores, range(4), range(4), "favour"), 1) == 100


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("strings", [False, True])
def test_agrees_with_loops_on_random_ids_and_ties(tie_rule, strings):
    random = np.random.default_rng(3)
    for _ in range(20):
        gallery = random.integers(0, 6, size=random.integers(6, 30))
        queries = random.choice(gallery, size=random.integers(1, 12))
        scores = random.integers(0, 5, (len(queries), len(gallery))) / 4  # few values: many ties
        if strings:
            gallery, queries = [f"image {i}" for i in gallery], [f"image {i}" for i in queries]
        expected = ranks_by_loops(scores, queries, gallery, tie_rule)
        assert ranks(scores, queries, gallery, tie_rule).tolist() == expected


def test_large_scores_are_counted_in_blocks(monkeypatch):
    scores = np.random.default_rng(0).random((50, 50))
    whole = ranks(scores, range(50), range(50))
    monkeypatch.setattr("engine.ranking.metrics._BLOCK_ELEMENTS", 120)
    assert ranks(scores, range(50), range(50)).tolist() == whole.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_with_their_position(value):
    scores = np.zeros((3, 4))
    scores[2, 1] = value
    with pytest.raises(ValueError, match=r"finite scores, got -?(nan|inf) at query 2, gallery item 1"):
        ranks(scores, [0, 1, 2], [0, 1, 2, 3])


def test_a_query_without_a_relevant_item_is_named():
    with pytest.raises(ValueError, match=r"query 1 \(id zebra\) has none"):
        ranks(np.zeros((2, 2)), ["cat", "zebra"], ["cat", "dog"])


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected scores .* \[2, 3\]"):
        ranks(np.zeros((2, 2)), [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="integers or strings"):
        ranks(np.zeros((1, 1)), [0], ["0"])
    with pytest.raises(ValueError, match="unknown tie rule 'none'; expected one of against, favour, average"):
        ranks(np.zeros((1, 1)), [0], [0], "none")


def test_recall_counts_the_queries_with_a_hit_among_the_first_k():
    assert recall_at_k(np.array([0, 0, 1, 4, 5, 9, 10, 80]), 1) == 25.0
    assert recall_at_k(np.array([0, 0, 1, 4, 5, 9, 10, 80]), 5) == 50.0
    assert recall_at_k(np.array([0, 0, 1, 4, 5, 9, 10, 80]), 10) == 75.0


def test_a_hit_tied_across_the_border_is_outside():
    assert recall_at_k(np.array([0.5]), 1) == 0  # between the first and the second place
    assert recall_at_k(np.array([0.5]), 2) == 100


def test_median_and_mean_ranks_start_at_one():
    assert median_rank(np.array([0, 1, 2])) == 2
    assert median_rank(np.array([0, 1, 2, 3])) == 2  # floor(1.5) + 1
    assert mean_rank(np.array([0, 1, 2, 3])) == 2.5
    with pytest.raises(ValueError, match="non-empty"):
        median_rank(np.array([]))


def test_summary_holds_both_directions_and_their_sum():
    summary = summarize(np.array([0, 7]), np.array([0, 2, 20, 40]))
    assert summary == {
        "i2t_r1": 50.0,
        "i2t_r5": 50.0,
        "i2t_r10": 100.0,
        "i2t_medr": 4.0,
        "i2t_meanr": 4.5,
        "t2i_r1": 25.0,
        "t2i_r5": 50.0,
        "t2i_r10": 50.0,
        "t2i_medr": 12.0,
        "t2i_meanr": 16.5,
        "rsum": 325.0,
        "mean_recall": 325.0 / 6,
    }
