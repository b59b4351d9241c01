"""A bundle is refused for a difference, a changed rank or a loss, and rounding alone is forgiven."""

from dataclasses import replace

import numpy as np
import pytest

from config.errors import UserError
from engine.export.evidence import NEAR, Evidence, near_rivals
from engine.export.proof import describe_proof, state_proof

SAME = np.array([0, 3, 1])
RECALLS = {"mean_recall": 50.0}
GOOD = Evidence(
    1e-7, 1e-7, SAME, SAME, np.zeros(3, int), RECALLS, RECALLS, {"split": "dev", "images": 2, "captions": 3}
)


def test_what_agrees_is_proved():
    proof = state_proof(GOOD, "float32", 0, 0.5)
    assert (proof["ranks"], proof["ranks_changed"], proof["mean_recall_lost"]) == (3, 0, 0)
    assert "0 of 3" in describe_proof(proof)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"difference": 2e-4},
        {"ragged": 2e-4},
        {"after": np.array([0, 4, 1])},
        {"after": np.array([0, 5, 1]), "near": np.array([0, 1, 0])},
        {"difference": float("nan")},
    ],
)
def test_float32_that_differs_is_refused(change):
    with pytest.raises(UserError, match="nothing was written"):
        state_proof(replace(GOOD, **change), "float32", 0, 100)


def test_rivals_that_rounding_orders_may_change_a_rank():
    evidence = replace(GOOD, after=np.array([0, 4, 1]), near=np.array([0, 1, 0]))
    proof = state_proof(evidence, "float32", 0, 0.5)
    assert (proof["ranks_changed"], proof["ranks_changed_beyond_rounding"]) == (1, 0)


def test_other_precisions_may_lose_what_is_allowed():
    evidence = replace(GOOD, difference=0.01, metrics_after={"mean_recall": 49.6})
    assert state_proof(evidence, "int8", 7, 0.5)["quantised_nodes"] == 7
    with pytest.raises(UserError, match=r"lose 0.40 points .* --max_loss 0.3"):
        state_proof(evidence, "int8", 7, 0.3)


def test_near_rivals_are_counted_where_a_rank_changed():
    scores = np.array([0.5, 0.5 + NEAR / 2, 0.5 - NEAR / 2, 0.5 + 3 * NEAR, 0.1])
    relevant = np.array([True, False, False, False, True])
    near = near_rivals(np.array([3, 3]), np.array([3, 1]), lambda query: (scores, relevant))
    assert near.tolist() == [0, 2]
