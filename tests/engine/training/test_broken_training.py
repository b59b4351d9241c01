"""What the loop does when the loss is not a number, or when hardest-negative training collapses."""

import numpy as np
import paddle
import pytest

from config.load import load_config
from engine.runs.run_log import RunLog
from engine.training.collapse_guard import CollapseGuard
from engine.training.outcomes import TrainingFailedError, TrainingStoppedError
from engine.training.settings import TrainingSettings
from engine.training.training_state import restore_training
from models.build import build_loss
from models.losses.ranking import HingeLoss

BATCHES = 6


def broken_at(*steps):
    """Batches whose loss is NaN at the given 0-based steps of the only epoch."""

    def batches_of(epoch, start):
        batches = []
        for index in range(BATCHES):
            x = np.random.default_rng(index).standard_normal((4, 3)).astype(np.float32)
            y = np.full((4, 1), np.nan if index in steps else 1.0, np.float32)
            batches.append({"x": x, "y": y, "image_id": np.arange(4)})
        return BATCHES, batches[start:]

    return batches_of


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_a_loss_that_is_not_a_number_ends_training_with_the_remedy(make_run, on_collapse):
    settings = TrainingSettings.from_config(load_config(None, [f"LOSS.ON_COLLAPSE={on_collapse}"]))
    run = make_run(batches_of=broken_at(3), epochs=1, skip_broken=settings.skip_broken, save_steps=1)
    with pytest.raises(
        TrainingFailedError, match=r"the loss is nan at step 4: lower OPTIMIZATION\.LR.*CLIP"
    ) as caught:
        run.trainer.fit()
    assert "\n" not in str(caught.value)
    assert run.saved[-1] == ("last", 3)


def test_fallback_skips_the_steps_whose_loss_is_not_a_number(make_run):
    settings = TrainingSettings.from_config(load_config(None, ["LOSS.ON_COLLAPSE=fallback"]))
    skip = settings.skip_broken
    run = make_run(batches_of=broken_at(2, 3), epochs=1, skip_broken=skip, print_step=2)
    before = {}
    save = run.trainer.optimizer.step
    run.trainer.optimizer.step = lambda: (before.setdefault(run.trainer.position.step, run.weights()), save())
    run.trainer.fit()
    assert sorted(before) == [0, 1, 4, 5] and np.isfinite(run.weights()).all()
    skipped = run.records("skipped")
    assert [record["step"] for record in skipped] == [3, 4] and "OPTIMIZATION.LR" in skipped[0]["message"]
    assert [record["step"] for record in run.records()] == [2, 6], "steps 3 and 4 have no loss to log"
    assert "NaN" not in run.log_file.read_text(), "which JSON does not know"


def test_skipped_steps_that_are_not_in_a_row_do_not_add_up(make_run):
    run = make_run(batches_of=broken_at(0, 1, 3), epochs=5, skip_broken=True)
    run.trainer.fit()
    assert len(run.records("skipped")) == 15


def test_fallback_gives_up_when_no_step_is_sound(make_run):
    run = make_run(batches_of=broken_at(*range(BATCHES)), epochs=9, skip_broken=True)
    with pytest.raises(TrainingFailedError, match="at step 10"):
        run.trainer.fit()


def test_weights_that_are_not_numbers_reach_no_checkpoint(make_run):
    run = make_run(epochs=1, save_steps=1)
    step = run.trainer.optimizer.step

    def diverge():
        step()
        if run.trainer.position.step == 3:
            run.trainer.model.fc.bias.set_value(np.array([np.inf], np.float32))

    run.trainer.optimizer.step = diverge
    with pytest.raises(TrainingFailedError, match=r"the weights fc\.bias hold NaN or infinity after step 4"):
        run.trainer.fit()
    assert run.saved[-1] == ("last", 3)


class Collapsed(paddle.nn.Layer):
    """Give every image and caption the same score."""

    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([1])

    def forward(self, batch):
        pairs = len(batch["image_id"])
        return {"scores": self.scale * paddle.zeros([pairs, pairs])}


def collapsed_run(make_run, collapse_steps, on_collapse, sum_epochs=0, **settings):
    """Return a run whose loss sits at the plateau from its first step on the hardest negatives."""

    def batches_of(epoch, start):
        return BATCHES, [{"image_id": np.arange(4), "sentence_id": np.arange(4)}] * (BATCHES - start)

    def watched_by(log):
        return [CollapseGuard(loss, collapse_steps, on_collapse, log)]

    loss = HingeLoss(0.2, hard_negative=True, sum_epochs=sum_epochs, mask_duplicates=True)
    return make_run(model=Collapsed(), loss=loss, batches_of=batches_of, watched_by=watched_by, **settings)


HARDEST, SUM = 2 * 4 * 0.2, 2 * 4 * 3 * 0.2


def losses(run):
    return [record["loss"] for record in run.records()]


def test_collapse_is_told_once_and_training_goes_on(make_run):
    run = collapsed_run(make_run, collapse_steps=3, on_collapse="warn")
    run.trainer.fit()
    (told,) = run.records("collapse")
    assert told["step"] == 4 and "from step 1 to 4" in told["message"] and "SUM_EPOCHS" in told["message"]
    assert losses(run) == pytest.approx([HARDEST] * 12)


def test_collapse_ends_training_where_asked(make_run):
    run = collapsed_run(make_run, collapse_steps=3, on_collapse="stop")
    with pytest.raises(TrainingFailedError, match="collapse.*LOSS.SUM_EPOCHS=1"):
        run.trainer.fit()


def test_collapse_falls_back_to_the_sum_for_the_rest_of_the_epoch_and_one_more(make_run):
    run = collapsed_run(make_run, collapse_steps=3, on_collapse="fallback", epochs=3)
    run.trainer.fit()
    assert losses(run) == pytest.approx([HARDEST] * 4 + [SUM] * 8 + [HARDEST] * 4 + [SUM] * 2)
    assert [record["step"] for record in run.records("collapse")] == [4, 16]


@pytest.mark.parametrize("step", [2, 4, 5, 6, 8, 14])
def test_the_guard_goes_on_after_a_resume_as_if_there_had_been_none(make_run, step):
    settings = {"collapse_steps": 3, "on_collapse": "fallback", "epochs": 3}
    undisturbed = collapsed_run(make_run, **settings)
    undisturbed.trainer.fit()
    stopped = collapsed_run(make_run, **settings)
    forward = stopped.trainer.model.forward

    def forward_and_stop(batch):
        stopped.trainer.stop_signal = 15 if stopped.trainer.position.step == step - 1 else 0
        return forward(batch)

    stopped.trainer.model.forward = forward_and_stop
    with pytest.raises(TrainingStoppedError):
        stopped.trainer.fit()
    resumed = collapsed_run(make_run, **settings)
    restore_training(resumed.trainer, *stopped.states["last"])
    resumed.trainer.fit()
    assert losses(stopped) + losses(resumed) == losses(undisturbed)
    told = [record["step"] for run in (stopped, resumed) for record in run.records("collapse")]
    assert told == [4, 16]
    assert resumed.states["last"][2] == undisturbed.states["last"][2]
    assert resumed.states["last"][2]["watchers"]["collapse_guard"]["sum_until"] == 4


def test_the_sum_of_negatives_comes_first_and_is_no_collapse(make_run):
    run = collapsed_run(make_run, collapse_steps=5, on_collapse="stop", sum_epochs=2, epochs=3)
    with pytest.raises(TrainingFailedError, match="from step 13 to 18"):
        run.trainer.fit()
    assert losses(run) == pytest.approx([SUM] * 12 + [HARDEST] * 5)


@pytest.mark.parametrize(
    ("options", "watched"),
    [
        ([], True),
        (["MODEL.NAME=vsrn"], True),
        (["LOSS.HARD_NEGATIVE=false"], False),
        (["LOSS.NAME=contrastive"], False),
        (["LOSS.COLLAPSE_STEPS=0"], False),
    ],
)
def test_only_training_on_the_hardest_negatives_is_watched_for_collapse(options, watched, tmp_path):
    cfg = load_config(None, options)
    guards = CollapseGuard.from_config(cfg, build_loss(cfg), RunLog(tmp_path / "log.jsonl", None, False))
    assert [guard.patience for guard in guards] == ([300] if watched else [])
