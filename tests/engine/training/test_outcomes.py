"""Whether anything is left to train, and what to change where nothing is."""

from engine.training.outcomes import nothing_left
from engine.training.position import TrainingPosition
from engine.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=4, seed=1, early_stopping=2)


def test_a_run_on_its_way_has_something_left():
    assert nothing_left(TrainingPosition(), SETTINGS) == ""
    assert nothing_left(TrainingPosition(epoch=3, batch=5, validations_without_gain=1), SETTINGS) == ""


def test_a_finished_run_names_the_key_that_lets_it_go_on():
    assert "4 epochs are done" in nothing_left(TrainingPosition(epoch=4), SETTINGS)
    assert "--resume OPTIMIZATION.EPOCHS=8" in nothing_left(TrainingPosition(epoch=4), SETTINGS)
    stopped = nothing_left(TrainingPosition(epoch=2, validations_without_gain=2), SETTINGS)
    assert "2 validations brought no gain" in stopped and "OPTIMIZATION.EARLY_STOPPING (2)" in stopped
    patient = TrainingSettings(epochs=4, seed=1)
    assert nothing_left(TrainingPosition(epoch=2, validations_without_gain=2), patient) == ""


def test_a_run_stopped_before_its_last_validation_still_has_that_to_do():
    assert nothing_left(TrainingPosition(epoch=4, interrupted=True), SETTINGS) == ""
