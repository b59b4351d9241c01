"""The guard tells the collapse of hardest-negative training from training that is merely slow."""

import pytest

from engine.runs.run_log import RunLog
from engine.training.collapse_guard import CollapseGuard
from engine.training.outcomes import is_broken
from models.losses.ranking import HingeLoss

PAIRS, MARGIN = 128, 0.2
PLATEAU = 2 * PAIRS * MARGIN


@pytest.fixture
def guard_of(tmp_path):
    """Return a function that makes a guard with a patience of so many steps."""

    def guard_of(patience):
        loss = HingeLoss(MARGIN, hard_negative=True, sum_epochs=0, mask_duplicates=True)
        return CollapseGuard(loss, patience, "warn", RunLog(tmp_path / "log.jsonl", None, enabled=False))

    return guard_of


def test_a_loss_that_sits_at_the_plateau_with_equal_scores_is_reported_once(guard_of):
    guard = guard_of(patience=5)
    reports = [guard.observe(step, PLATEAU * 1.001, PAIRS, spread=0.001) for step in range(20)]
    assert reports.index(True) == 5 and sum(reports) == 1
    assert "from step 0 to 5" in guard.message(5, PAIRS) and "51.2" in guard.message(5, PAIRS)


def test_leaving_the_plateau_starts_the_count_again(guard_of):
    guard = guard_of(patience=5)
    for step in range(4):
        assert not guard.observe(step, PLATEAU, PAIRS, 0.001)
    assert not guard.observe(4, 0.5 * PLATEAU, PAIRS, 0.001)
    assert [guard.observe(step, PLATEAU, PAIRS, 0.001) for step in range(5, 11)].index(True) == 5


def test_the_same_loss_with_scores_that_differ_is_learning(guard_of):
    guard = guard_of(patience=1)
    assert not any(guard.observe(step, PLATEAU, PAIRS, spread=0.3) for step in range(9))


@pytest.mark.parametrize(("loss", "broken"), [(1.0, False), (float("nan"), True), (float("inf"), True)])
def test_nan_and_infinity_are_broken(loss, broken):
    assert is_broken(loss) is broken
