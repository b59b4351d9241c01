"""Ranks are counted alike from pairs and from rows, by every tie rule."""

import numpy as np
import pytest

from engine.ranking.counter import TIE_RULES, RankCounter, mean_over_ties

SCORES = np.array([[3, 1, 3, 2], [0, 5, 5, 5], [2, 2, 2, 2], [4, 3, 2, 1]], np.float32)
RELEVANT = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
RANKS = {"against": [2, 3, 2, 4], "favour": [2, 3, 0, 4], "average": [2, 3, 1, 4]}  # the last has none


def counted_by_rows(tie_rule: str) -> RankCounter:
    counter, queries = RankCounter(4, tie_rule), np.array([3, 1, 0, 2])
    counter.see_relevant_rows(queries, np.where(RELEVANT, SCORES, -np.inf)[queries])
    for columns in (slice(0, 1), slice(1, 4)):
        counter.see_rival_rows(slice(None), SCORES[:, columns], ~RELEVANT[:, columns])
    return counter


def counted_by_pairs(tie_rule: str) -> RankCounter:
    counter = RankCounter(4, tie_rule)
    for see, chosen in ((counter.see_relevant, RELEVANT), (counter.see_rivals, ~RELEVANT)):
        queries, items = np.nonzero(chosen)
        order = np.random.default_rng(0).permutation(len(queries))
        for part in np.array_split(order, 3):
            see(queries[part], SCORES[queries, items][part])
    return counter


@pytest.mark.parametrize("tie_rule", TIE_RULES)
@pytest.mark.parametrize("count", [counted_by_rows, counted_by_pairs])
def test_irrelevant_items_ahead_are_counted(count, tie_rule):
    counter = count(tie_rule)
    assert counter.ranks().tolist() == RANKS[tie_rule]
    assert (counter.ranks().dtype == np.int64) == (tie_rule != "average")
    for other in TIE_RULES:  # both answers are counted, whatever rule the result follows
        assert counter.ranks(other).tolist() == RANKS[other]


def test_a_rival_may_stand_for_several():
    counter = RankCounter(4)
    counter.see_relevant_rows(slice(None), np.where(RELEVANT, SCORES, -np.inf))
    counter.see_rival_rows(slice(None), SCORES, 3 * ~RELEVANT)
    assert counter.ranks().tolist() == [6, 9, 6, 12]


def test_counts_of_several_processes_add_up():
    parts = [RankCounter(4, "average") for _ in range(2)]
    halves = slice(0, 2), slice(2, 4)
    for part, columns in zip(parts, halves, strict=True):
        part.see_relevant_rows(slice(None), np.where(RELEVANT, SCORES, -np.inf)[:, columns])
    best = np.maximum(parts[0].best, parts[1].best)
    for part, columns in zip(parts, halves, strict=True):
        part.best = best
        part.see_rival_rows(slice(None), SCORES[:, columns], ~RELEVANT[:, columns])
    parts[0].counts = parts[0].counts + parts[1].counts
    assert parts[0].ranks().tolist() == RANKS["average"]


@pytest.mark.parametrize(("tie_rule", "mean"), [("against", 1), ("favour", 0), ("average", 0.5)])
def test_what_depends_on_ties_is_averaged_as_ranks_are(tie_rule, mean):
    found = mean_over_ties(tie_rule, lambda equals_are_ahead: np.full(2, equals_are_ahead))
    assert found.tolist() == [mean, mean]


def test_an_unknown_tie_rule_is_named():
    with pytest.raises(ValueError, match="unknown tie rule 'luck'; expected one of against, favour, average"):
        RankCounter(1, "luck")
