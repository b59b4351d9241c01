"""Every schedule equals its plain formula at chosen steps."""

import math

import pytest

from config.default import default_config
from solvers.scheduler import build_schedule


def schedule(steps_per_epoch: int = 10, **settings):
    cfg = default_config()
    for key, value in ({"LR": 0.1, "EPOCHS": 10} | settings).items():
        cfg.merge_from_list([f"OPTIMIZATION.{key}", value])
    return build_schedule(cfg, steps_per_epoch)


def test_constant() -> None:
    rate = schedule(LR_SCHEDULER="constant")
    assert [rate(step) for step in (0, 50, 99)] == [0.1] * 3


def test_step_drops_every_so_many_epochs() -> None:
    rate = schedule(LR_SCHEDULER="step", LR_STEP_EPOCHS=3.0, LR_GAMMA=0.5)
    assert [rate(step) for step in (0, 29, 30, 59, 60, 99)] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.0125]


def test_the_originals_drop_to_a_tenth_after_fifteen_epochs() -> None:
    rate = schedule(LR=2e-4, EPOCHS=30)
    assert rate(149) == 2e-4
    assert rate(150) == pytest.approx(2e-5)
    assert rate(299) == pytest.approx(2e-5)


def test_multistep_drops_at_its_milestones() -> None:
    rate = schedule(LR_SCHEDULER="multistep", LR_MILESTONES=[2.0, 4.5], LR_GAMMA=0.1)
    assert [rate(step) for step in (19, 20, 44, 45)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_linear_reaches_its_end_at_the_last_step() -> None:
    rate = schedule(LR_SCHEDULER="linear", LR_END_FACTOR=0.2)
    for step in (0, 49, 99):
        assert rate(step) == pytest.approx(0.1 * (1 - 0.8 * (step + 1) / 100))
    assert rate(99) == pytest.approx(0.02)


def test_cosine() -> None:
    rate = schedule(LR_SCHEDULER="cosine", LR_END_FACTOR=0.1)
    for step in (0, 24, 49, 99):
        expected = 0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * (step + 1) / 100)) / 2)
        assert rate(step) == pytest.approx(expected)


def test_polynomial() -> None:
    rate = schedule(LR_SCHEDULER="polynomial", LR_POWER=2.0)
    for step in (0, 49, 98):
        assert rate(step) == pytest.approx(0.1 * (1 - (step + 1) / 100) ** 2)
    assert rate(99) == 0.0


def test_warm_up_rises_step_by_step_and_then_hands_over() -> None:
    rate = schedule(LR_SCHEDULER="linear", WARMUP_STEPS=20)
    assert [rate(step) for step in (0, 9, 19)] == pytest.approx([0.005, 0.05, 0.1])
    assert rate(59) == pytest.approx(0.1 * (1 - 40 / 80))  # half of what is left after the warm-up
    assert rate(99) == 0.0


@pytest.mark.parametrize("shape", ["constant", "step", "multistep", "linear", "cosine", "polynomial"])
def test_every_shape_warms_up(shape: str) -> None:
    rate = schedule(LR_SCHEDULER=shape, WARMUP_STEPS=5)
    assert [rate(step) for step in range(5)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


def test_the_longer_warm_up_counts() -> None:
    assert schedule(LR_SCHEDULER="constant", WARMUP_STEPS=5, WARMUP_EPOCHS=2.0)(9) == pytest.approx(0.05)
    assert schedule(LR_SCHEDULER="constant", WARMUP_STEPS=40, WARMUP_EPOCHS=2.0)(9) == pytest.approx(0.025)


@pytest.mark.parametrize("warmup", [0, 3])
def test_linear_is_what_fine_tuning_of_bert_uses(warmup: int) -> None:
    """Update n of N has the rate n / W in the warm-up and (N - n) / (N - W) after it (Oscar's code)."""
    rate = schedule(steps_per_epoch=5, LR=1.0, EPOCHS=2, LR_SCHEDULER="linear", WARMUP_STEPS=warmup)
    expected = {
        0: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0],
        3: [1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0],
    }
    assert [rate(step) for step in range(10)] == pytest.approx(expected[warmup])


def test_by_epoch_the_rate_is_read_at_the_epochs_start() -> None:
    rate = schedule(LR_SCHEDULER="linear", LR_UPDATE="epoch")
    assert [rate(step) for step in (0, 9, 10, 19, 95)] == pytest.approx([0.1, 0.1, 0.09, 0.09, 0.01])


def test_by_epoch_a_milestone_within_an_epoch_waits_for_the_next() -> None:
    rate = schedule(LR_SCHEDULER="multistep", LR_MILESTONES=[2.5], LR_UPDATE="epoch")
    assert [rate(step) for step in (25, 29, 30)] == pytest.approx([0.1, 0.1, 0.01])


def test_by_epoch_the_warm_up_still_rises_by_steps() -> None:
    rate = schedule(LR_SCHEDULER="constant", LR_UPDATE="epoch", WARMUP_EPOCHS=1.0)
    assert [rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.01, 0.05, 0.1, 0.1])


def test_a_rate_depends_on_the_step_alone() -> None:
    rate = schedule(LR_SCHEDULER="cosine", WARMUP_STEPS=7)
    forward = [rate(step) for step in range(100)]
    assert [rate(step) for step in reversed(range(100))] == forward[::-1]


def test_steps_past_the_end_keep_the_last_rate() -> None:
    assert schedule(LR_SCHEDULER="cosine", LR_END_FACTOR=0.5)(500) == pytest.approx(0.05)
