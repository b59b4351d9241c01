"""Intervals, tie intervals and chance levels are those that plain loops and SciPy find."""

import itertools
import math

import numpy as np
import pytest

from engine.certificates import bootstrap
from engine.certificates.bootstrap import Stratum, bca, left_out, means_of, replicates
from engine.certificates.resampling import resampled_counts
from engine.certificates.sides import Side, certify, chance_of_hit, contributions, describe, strata_of
from engine.ranking.counter import TiedRanks
from engine.ranking.metrics import summarize

IMAGES = 40


def sides_of(folds: int = 1, seed: int = 0, captions: int = 3, level: float = 3.0):
    random = np.random.default_rng(seed)
    fold = np.sort(np.arange(IMAGES) % folds)
    hard = random.normal(size=IMAGES)
    sides = {}
    for name, owner, relevant, gallery in (
        ("i2t_", np.arange(IMAGES), captions, IMAGES * captions),
        ("t2i_", np.repeat(np.arange(IMAGES), captions), 1, IMAGES),
    ):
        favour = np.exp(hard[owner] + random.normal(size=len(owner)) + level - 2).astype(int)
        against = favour + random.integers(0, 2, len(owner)) * random.integers(0, 4, len(owner))
        size = len(owner)
        sides[name] = Side.of(
            TiedRanks(favour, against), owner, fold[owner], np.full(size, relevant), np.full(size, gallery)
        )
    return sides


@pytest.mark.parametrize("tie_rule", ["against", "favour", "average"])
@pytest.mark.parametrize("folds", [1, 3])
def test_values_are_those_of_the_metrics(tie_rule, folds):
    sides = sides_of(folds)
    found = certify(sides, tie_rule, resamples=50)
    by_fold = [
        summarize(*(side.ranks(tie_rule)[side.fold == fold] for side in sides.values()))
        for fold in range(folds)
    ]
    assert set(found) == set(by_fold[0])
    for name, one in found.items():
        assert one.value == pytest.approx(np.mean([metrics[name] for metrics in by_fold]), abs=1e-9)
        assert one.interval.low <= one.interval.high


@pytest.mark.parametrize("few_values", [0, 128])
def test_resamples_are_those_of_a_loop(few_values, monkeypatch):
    monkeypatch.setattr(bootstrap, "_FEW_VALUES", few_values)
    monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", 200)
    monkeypatch.setattr(bootstrap, "_PART", 15)
    sides = sides_of(folds=2)
    strata, names, medians = strata_of(sides, "against")
    found, middles = replicates(strata, 30, seed=5)
    drawn = [
        resampled_counts(count, 20, random).astype(int)
        for fold in range(2)
        for start in (0, 15)
        for random in [np.random.default_rng((5, fold, start))]
        for count in (10, 5)
    ]
    drawn = np.concatenate(drawn).reshape(2, 30, 20)
    for resample in range(30):
        values, medians_of = [], []
        for fold in range(2):
            weights = drawn[fold, resample]
            assert weights.sum() == 20
            chosen = np.repeat(np.arange(20), weights) + 20 * fold
            row, middle = [], []
            for side in sides.values():
                queries = np.concatenate([np.flatnonzero(side.owner == image) for image in chosen])
                ranks = side.against[queries]
                row += [100 * np.mean(ranks < k) for k in (1, 5, 10)] + [ranks.mean() + 1]
                middle.append(np.median(ranks))
            values.append(row)
            medians_of.append(middle)
        np.testing.assert_allclose(found[resample], np.mean(values, axis=0), rtol=1e-6)
        assert middles[resample].tolist() == np.mean(medians_of, axis=0).tolist()
    assert [name[4:] for name in names[:4]] == ["r1", "r5", "r10", "meanr"]
    assert medians == ["i2t_medr", "t2i_medr"]


def test_a_median_outside_the_window_is_found(monkeypatch):
    monkeypatch.setattr(bootstrap, "_DEVIATIONS", 0)
    monkeypatch.setattr(bootstrap, "_FEW_VALUES", 0)
    values, owner = np.arange(30), np.arange(30)
    strata = [Stratum(np.ones((30, 1)), np.ones((30, 1)), ((values, owner),))]
    _, middles = replicates(strata, 200, seed=1)
    weights = resampled_counts(200, 30, np.random.default_rng((1, 0, 0)))
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert middles[:, 0].tolist() == expected


def test_an_image_left_out():
    strata, _, _ = strata_of(sides_of(folds=2), "against")
    found = left_out(strata)
    row = 0
    for number, stratum in enumerate(strata):
        for image in range(len(stratum.sums)):
            rest = np.arange(len(stratum.sums)) != image
            without = Stratum(stratum.sums[rest], stratum.counts[rest])
            changed = [without if place == number else each for place, each in enumerate(strata)]
            np.testing.assert_allclose(found[row], means_of(changed))
            row += 1
    assert row == len(found)


def test_bca_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    sample = np.random.default_rng(3).gamma(2.0, size=50)
    expected = stats.bootstrap((sample,), np.mean, n_resamples=4000, method="BCa", random_state=0)
    drawn = expected.bootstrap_distribution
    jackknife = np.array([np.delete(sample, place).mean() for place in range(50)])
    found = bca(sample.mean(), drawn, jackknife)
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)


def test_no_hit_has_clopper_and_pearsons_interval():
    side = Side.of(
        TiedRanks(np.full(30, 20), np.full(30, 20)),
        np.arange(30),
        np.zeros(30, int),
        np.ones(30, int),
        np.full(30, 30),
    )
    one = certify({"i2t_": side}, "against", resamples=20)["i2t_r1"]
    assert one.interval.method == "clopper-pearson" and one.interval.low == 0
    assert (1 - one.interval.high / 100) ** 30 == pytest.approx(0.025)


def test_the_tie_interval_holds_both_rules_and_counts_the_queries():
    sides = sides_of()
    found = certify(sides, "average", resamples=20)
    for name, side in sides.items():
        for k in (1, 5, 10):
            harsh, friendly = 100 * np.mean(side.against < k), 100 * np.mean(side.favour < k)
            assert found[f"{name}r{k}"].tie == pytest.approx((harsh, friendly))
            assert found[f"{name}r{k}"].tied == sum((side.against < k) != (side.favour < k))


@pytest.mark.parametrize(("relevant", "gallery", "k"), [(1, 5, 1), (2, 6, 3), (3, 4, 2), (2, 3, 5)])
def test_chance_is_the_share_of_all_orders_with_a_hit(relevant, gallery, k):
    orders = list(itertools.combinations(range(gallery), relevant))  # the places of the relevant items
    expected = np.mean([min(places) < k for places in orders])
    assert chance_of_hit(np.array([relevant]), np.array([gallery]), k)[0] == pytest.approx(expected)


def test_what_images_add_sums_to_the_values():
    sides = sides_of(folds=3)
    added, names = contributions(sides, "against")
    found = certify(sides, "against", resamples=10)
    for name, column in zip(names, added.T, strict=True):
        assert math.fsum(column) == pytest.approx(found[name].value)


def test_queries_without_a_right_item_are_left_out():
    side = Side.of(
        TiedRanks(np.array([0, 9, 3]), np.array([0, 9, 3])),
        np.arange(3),
        np.zeros(3, int),
        np.array([1, 0, 2]),
        np.full(3, 9),
    )
    assert side.query.tolist() == [0, 2]
    assert certify({"i2t_": side}, "against", resamples=10)["i2t_r1"].value == 50


def test_a_line_says_value_half_width_ties_and_chance():
    one = certify(sides_of(), "against", resamples=100)["i2t_r1"]
    half = (one.interval.high - one.interval.low) / 2
    assert describe(one) == (
        f"{one.value:.1f} ± {half:.1f} (tie {one.tie[0]:.1f}–{one.tie[1]:.1f}, chance {one.chance:.1f})"
    )
