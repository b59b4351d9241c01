"""A trainer takes up a checkpoint's state exactly, or says in one line why it cannot."""

import json

import numpy as np
import pytest

from config.errors import UserError
from datasets.samplers.batches import FinishedPart
from engine.training.collapse_guard import CollapseGuard
from engine.training.training_state import restore_training, training_state
from models.losses.ranking import HingeLoss

BEFORE_WATCHERS = """{
 "progress": {
  "epoch": 1, "batch": 2, "step": 9, "last_validation": 6, "best_score": 6.0, "best_step": 6,
  "validations_without_gain": 0, "sum_until": 3, "stuck_since": 8, "collapse_reported": true,
  "interrupted": true, "begun": [[8, 2, 1]], "schedule_shift": 1
 },
 "epoch_length": {"batches": 6, "steps": 6, "samples": 0, "batch": 0, "processes": 1},
 "scaler": {}
}"""
"""What `state.json` held of a trainer before there were watchers."""


@pytest.fixture
def state(make_run):
    run = make_run(ema_decay=0.9, epochs=1)
    run.trainer.fit()
    return training_state(run.trainer)


def test_the_state_returns_bit_for_bit_by_way_of_json(make_run, state):
    model, rest, values = state
    again = make_run(ema_decay=0.9, epochs=1)
    restore_training(again.trainer, model, rest, json.loads(json.dumps(values)))
    for ours, theirs in zip(training_state(again.trainer)[:2], state[:2], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert training_state(again.trainer)[2] == values


def test_state_is_a_copy_that_later_steps_do_not_touch(make_run):
    run = make_run(epochs=2, save_epochs=1)
    run.trainer.fit()
    assert not np.array_equal(run.states["epoch_1"][0]["fc.weight"], run.states["epoch_2"][0]["fc.weight"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model, rest, values: model.pop("fc.bias"), "lacks fc.bias"),
        (lambda model, rest, values: rest.pop("weights.fc.bias"), r"\(trained weights\).*lacks fc.bias"),
        (lambda model, rest, values: rest.update({"loss.extra": np.ones(1)}), r"\(loss\).*unexpected extra"),
        (lambda model, rest, values: rest.pop("optimizer.moment1/fc.bias"), "lacks entry moment1/fc.bias"),
        (lambda model, rest, values: values.pop("progress"), "state.json"),
        (lambda model, rest, values: values["progress"].update(mood="good"), "state.json.*mood"),
        (lambda model, rest, values: values["progress"].update(sum_until=1), "state.json.*sum_until"),
        (
            lambda model, rest, values: values["epoch_length"].update(batches=7),
            "an epoch was 7 batches in 6 steps, now it is 6 batches in 6 steps",
        ),
    ],
    ids=[
        "model",
        "trained weights",
        "loss",
        "optimizer",
        "no progress",
        "odd progress",
        "half of a guard",
        "epoch length",
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(make_run, state, change, expected):
    change(*state)
    again = make_run(ema_decay=0.9, epochs=1)
    before = again.weights()
    with pytest.raises(UserError, match=expected) as caught:
        restore_training(again.trainer, *state)
    assert "\n" not in str(caught.value)
    assert np.array_equal(again.weights(), before) and again.trainer.position.step == 0


def test_a_state_of_before_there_were_watchers_is_that_of_today(make_run, state):
    hinge = HingeLoss(0.2, hard_negative=True, sum_epochs=1, mask_duplicates=True)
    run = make_run(
        ema_decay=0.9, epochs=3, watched_by=lambda log: [CollapseGuard(hinge, 300, "fallback", log)]
    )
    resumed = []
    values = json.loads(BEFORE_WATCHERS)
    assert not restore_training(run.trainer, *state[:2], values, lambda *cut: resumed.append(cut))
    assert resumed == [(1, [FinishedPart(8, 2, 1)])] and hinge.sum_epochs == 3
    today = training_state(run.trainer)[2]
    assert today["watchers"] == {"collapse_guard": {"sum_until": 3, "stuck_since": 8, "reported": True}}
    before = values["progress"]
    kept = before.keys() - {"sum_until", "stuck_since", "collapse_reported", "begun"}
    assert today["progress"] == {name: before[name] for name in kept} | {"finished_parts": [[8, 2, 1]]}


def test_a_state_of_before_there_were_watchers_needs_none(make_run, state):
    run = make_run(ema_decay=0.9, epochs=3)  # the state of a guard that rested was kept all the same
    values = json.loads(BEFORE_WATCHERS)
    restore_training(run.trainer, *state[:2], values, lambda *cut: None)
    assert run.trainer.position.step == 9 and training_state(run.trainer)[2]["watchers"] == {}


def test_averaging_cannot_be_switched_in_between(make_run, state):
    with pytest.raises(UserError, match="EMA_DECAY was switched"):
        restore_training(make_run(epochs=1).trainer, *state)


def test_another_optimizer_cannot_go_on(make_run, state):
    with pytest.raises(UserError, match="OPTIMIZATION.OPTIMIZER"):
        restore_training(make_run(epochs=1, ema_decay=0.9, optimizer="sgd").trainer, *state)


def test_another_number_of_batches_is_refused_and_more_epochs_are_not(make_run, state):
    run = make_run(epochs=1, ema_decay=0.9, batches_of=lambda epoch, start: (3, iter(())))
    with pytest.raises(
        UserError, match="an epoch was 6 batches.*now it is 3.*not of the same data.*PRETRAINED.DIR"
    ):
        restore_training(run.trainer, *state)
    longer = make_run(epochs=2, ema_decay=0.9)
    restore_training(longer.trainer, *state)
    longer.trainer.fit()
    assert longer.trainer.position.step == 12
