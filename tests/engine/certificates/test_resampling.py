"""Counts of resamples have the distribution of draws with replacement, which plain loops make one by one."""

import math
from collections import Counter

import numpy as np
import pytest

from engine.certificates import resampling
from engine.certificates.bootstrap import Stratum, replicates
from engine.certificates.resampling import poisson_numbers, resampled_counts


def assert_frequencies(found: Counter, probabilities: list[float], total: int) -> None:
    """Assert that each outcome is as frequent as its probability says, within five standard errors."""
    assert sum(found.values()) == total
    for outcome, probability in enumerate(probabilities):
        error = math.sqrt(total * probability * (1 - probability))
        assert abs(found[outcome] - total * probability) <= 5 * error + 1, outcome


def binomial(draws: int, probability: float, largest: int) -> list[float]:
    return [
        math.comb(draws, hits) * probability**hits * (1 - probability) ** (draws - hits)
        for hits in range(largest + 1)
    ]


@pytest.fixture(autouse=True)
def no_means_of_other_tests():
    resampling._mean_below_one.cache_clear()
    yield
    resampling._mean_below_one.cache_clear()


@pytest.mark.parametrize("images", [1, 2, 16, 17, 40, 2000])
def test_rows_add_up_to_the_number_of_images(images):
    counts = resampled_counts(50, images, np.random.default_rng(0))
    assert counts.shape == (50, images)
    assert (counts.sum(axis=1) == images).all()
    assert (counts >= 0).all() and (counts == np.round(counts)).all()


@pytest.mark.parametrize("deviations", [(2, 3), (0, 0)])  # 0: about half of all resamples are made anew
@pytest.mark.parametrize("images", [5, 20, 400])
def test_counts_are_those_of_draws(images, deviations, monkeypatch):
    monkeypatch.setattr(resampling, "_DEVIATIONS", deviations)
    resamples = 400_000 // images
    counts = resampled_counts(resamples, images, np.random.default_rng(1)).astype(int)
    # One image alone: the first, and the last.
    for image in (0, images - 1):
        assert_frequencies(
            Counter(counts[:, image].tolist()), binomial(images, 1 / images, min(images, 12)), resamples
        )
    # Several images together, which depend on each other.
    part = images // 2
    together = Counter(counts[:, :part].sum(axis=1).tolist())
    assert_frequencies(together, binomial(images, part / images, images), resamples)


def test_outcomes_of_three_images_are_those_of_all_orders(monkeypatch):
    monkeypatch.setattr(resampling, "_DEVIATIONS", (0.2, 0.2))
    counts = resampled_counts(54_000, 3, np.random.default_rng(2)).astype(int)
    found = Counter(map(tuple, counts.tolist()))
    orders = Counter(
        tuple(Counter(order)[image] for image in range(3))
        for order in ((a, b, c) for a in range(3) for b in range(3) for c in range(3))
    )
    assert set(found) == set(orders)
    for outcome, ways in orders.items():
        assert abs(found[outcome] - 2000 * ways) <= 5 * math.sqrt(2000 * ways)


@pytest.mark.parametrize("mean", [0.0, 0.2, 0.9434, 1.0])
def test_bytes_and_the_rest_have_poissons_probabilities(mean):
    ends, rest = resampling._table(mean)
    shares = np.diff((0, *ends)) if ends else [256]
    undecided = 256 - sum(shares)
    for number in range(12):
        by_bytes = shares[number] if number < len(shares) else 0
        of_rest = (rest[number] - (rest[number - 1] if number else 0)) * undecided if undecided else 0
        expected = math.exp(-mean) * mean**number / math.factorial(number)
        assert (by_bytes + of_rest) / 256 == pytest.approx(expected, abs=1e-14)
    total = 300_000
    found = Counter(poisson_numbers((total,), mean, np.random.default_rng(3)).tolist())
    assert_frequencies(
        found, [math.exp(-mean) * mean**number / math.factorial(number) for number in range(12)], total
    )


def test_means_are_distributed_as_those_of_a_plain_loop():
    random = np.random.default_rng(4)
    values, counts = random.gamma(0.5, 50, size=80), random.integers(1, 6, size=80)
    stratum = Stratum((values * counts)[:, None], counts[:, None], ((values, np.arange(80)),))
    found, middles = replicates([stratum], 20_000, seed=0)
    means, medians = [], []
    for _ in range(20_000):
        chosen = random.integers(80, size=80)
        means.append((values * counts)[chosen].sum() / counts[chosen].sum())
        medians.append(np.median(values[chosen]))
    for ours, theirs in ((found[:, 0], np.array(means)), (middles[:, 0], np.array(medians))):
        # Kolmogorov and Smirnov's distance of two samples, at a probability of one in a million
        both = np.sort(np.concatenate([ours, theirs]))
        below = [np.searchsorted(np.sort(each), both, side="right") for each in (ours, theirs)]
        assert np.abs(below[0] - below[1]).max() / 20_000 < math.sqrt(math.log(2e6) / 20_000)


def test_the_same_seed_draws_the_same_on_any_number_of_threads(monkeypatch):
    stratum = Stratum(np.arange(3000.0)[:, None], np.ones((3000, 1)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    once, _ = replicates([stratum], 300, seed=7)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    again, _ = replicates([stratum], 300, seed=7)
    assert (once == again).all()
    other, _ = replicates([stratum], 300, seed=8)
    assert (once != other).any()
