"""A signal ends training in step, and a resume goes on as if there had been none."""

import numpy as np
import pytest

from engine.parallel.processes import ValidationStoppedError
from engine.training.outcomes import TrainingStoppedError
from engine.training.training_state import restore_training


def epochs_of(run):
    return [(name, step) for name, step in run.saved if name.startswith("epoch_")]


def stop_at(run, step, number=15):
    """Let a signal arrive while the given 0-based step is computed."""
    original = run.trainer.model.forward

    def forward(batch):
        if run.trainer.position.step == step:
            run.trainer.stop_signal = number
        return original(batch)

    run.trainer.model.forward = forward


def resumed(make_run, stopped, **settings):
    run = make_run(**settings)
    restore_training(run.trainer, *stopped.states["last"])
    return run


STEADY = {"dropout": 0.5, "ema_decay": 0.9, "accumulation_steps": 2, "save_epochs": 1, "epochs": 3}


@pytest.mark.parametrize("step", range(9))
def test_a_run_that_is_stopped_and_resumed_ends_where_an_undisturbed_one_does(make_run, step):
    undisturbed = make_run(**STEADY)
    undisturbed.trainer.fit()
    stopped = make_run(**STEADY)
    stop_at(stopped, step, number=2)
    with pytest.raises(TrainingStoppedError) as caught:
        stopped.trainer.fit()
    assert caught.value.exit_code == 130
    assert stopped.saved[-1] == ("last", step + 1), "the step at hand is finished, and kept"
    again = resumed(make_run, stopped, **STEADY)
    again.trainer.fit()
    for name in ("best", "last", "epoch_3"):
        for ours, theirs in zip(again.states[name][:2], undisturbed.states[name][:2], strict=True):
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours), name
        assert again.states[name][2] == undisturbed.states[name][2]
    kept = epochs_of(stopped) + epochs_of(again)
    assert kept == [("epoch_1", 3), ("epoch_2", 6), ("epoch_3", 9)], (
        "also where the stop came at an epoch's end"
    )
    validations = stopped.records("validation") + again.records("validation")
    assert [record["step"] for record in validations] == [3, 6, 9]


def test_a_validation_that_was_stopped_is_done_again(make_run):
    def leave(step):
        run.trainer.stop_signal = 15
        run.trainer.during_validation()

    run = make_run(scores=leave, ema_decay=0.5)
    before = run.weights()
    with pytest.raises(TrainingStoppedError) as caught:
        run.trainer.fit()
    assert caught.value.exit_code == 143
    assert run.saved == [("last", 6)] and not run.records("validation")
    assert not np.array_equal(before, run.weights())
    again = resumed(make_run, run, ema_decay=0.5)
    assert np.array_equal(again.weights(), run.weights()), "the trained weights are back after the averaged"
    again.trainer.fit()
    assert [record["step"] for record in again.records("validation")] == [6, 12]
    assert again.saved[:2] == [("best", 6), ("last", 6)]


def test_no_signal_no_stop(make_run):
    make_run().trainer.during_validation()
    run = make_run()
    run.trainer.stop_signal = 2
    with pytest.raises(ValidationStoppedError):
        run.trainer.during_validation()
