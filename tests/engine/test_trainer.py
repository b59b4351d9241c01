"""The loop: which steps it takes, what it averages, when it validates, saves and ends."""

import itertools
import json
import math
import types

import numpy as np
import paddle
import pytest

from config.load import load_config
from engine.progress import (
    TrainingFailedError,
    TrainingSettings,
    TrainingStoppedError,
    ValidationStoppedError,
)
from engine.trainer import _step_seed
from engine.training_state import restore_training
from models.losses import HingeLoss

BATCHES = 6
METRICS = {f"{way}_r{k}": 0.0 for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"rsum": 0.0}


def names(run, *kept):
    return [(name, step) for name, step in run.saved if name in kept]


def test_every_batch_of_every_epoch_is_one_step_in_order(make_run):
    seen = []

    def batches_of(epoch, start):
        def batches():
            for index in range(start, 3):
                seen.append((epoch, index))
                yield {
                    "x": np.ones((2, 3), np.float32),
                    "y": np.ones((2, 1), np.float32),
                    "image_id": np.arange(2),
                }

        return 3, batches()

    run = make_run(batches_of=batches_of)
    run.trainer.fit()
    assert seen == [(epoch, index) for epoch in range(2) for index in range(3)]
    assert (run.trainer.progress.step, run.trainer.progress.epoch, run.trainer.progress.batch) == (6, 2, 0)


def test_steps_equal_gradient_descent_by_hand(make_run):
    run = make_run(optimizer="sgd", epochs=1)
    weight, bias, offset = run.trainer.model.fc.weight.numpy().astype(float), 0.0, 0.0
    batches = list(run.trainer.batches_of(0, 0)[1])
    run.trainer.fit()
    for step, batch in enumerate(batches):
        error = batch["x"] @ weight + bias + offset - batch["y"]  # [B,1]
        rate = 0.1 / (1 + step)
        weight = weight - rate * 2 * batch["x"].T @ error / len(error)
        bias, offset = bias - rate * 2 * error.mean(), offset - rate * 2 * error.mean()
    assert np.allclose(run.weights(), np.append(weight, bias), atol=1e-5)


def test_every_step_and_process_draws_its_own_random_numbers(make_run):
    seeds = {_step_seed(7, step, rank) for step in range(100) for rank in range(8)}
    assert len(seeds) == 800
    run = make_run(dropout=0.5)
    run.trainer.model.eval()
    run.trainer.fit()
    assert run.trainer.model.training, "dropout counts in training"


@pytest.mark.parametrize("batches", [6, 5], ids=["even", "with a short last group"])
def test_accumulated_batches_equal_one_big_batch_for_a_mean_loss(make_run, batches):
    small = [
        {"x": x, "y": x.sum(axis=1, keepdims=True), "image_id": np.arange(4)}
        for x in np.random.default_rng(0).standard_normal((batches, 4, 3)).astype(np.float32)
    ]
    big = [
        {name: np.concatenate([batch[name] for batch in small[start : start + 2]]) for name in small[0]}
        for start in range(0, batches, 2)
    ]
    accumulated = make_run(
        batches_of=lambda epoch, start: (batches, small[start:]), accumulation_steps=2, epochs=2
    )
    whole = make_run(batches_of=lambda epoch, start: (len(big), big[start:]), epochs=2)
    accumulated.trainer.fit()
    whole.trainer.fit()
    assert accumulated.trainer.progress.step == whole.trainer.progress.step == 2 * math.ceil(batches / 2)
    assert np.allclose(accumulated.weights(), whole.weights(), atol=1e-6)
    both = zip(accumulated.records(), whole.records(), strict=True)
    assert all(abs(one["loss"] - other["loss"]) < 1e-5 for one, other in both)


def test_averaged_weights_are_evaluated_and_saved_while_training_goes_on_from_its_own(make_run):
    raw, seen = [], []
    run = make_run(ema_decay=0.5, epochs=1, eval_steps=1)
    update = run.trainer.average.update
    run.trainer.average.update = lambda step: (raw.append(run.weights()), update(step))
    run.trainer.validate = lambda: (seen.append(run.weights()), {**METRICS, "rsum": float(len(seen))})[1]
    average = run.weights()
    run.trainer.fit()
    for step, weights in enumerate(raw):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
        assert np.allclose(seen[step], average, atol=1e-6)
    model, rest, _ = run.states["best"]
    assert np.allclose(np.append(model["fc.weight"], model["fc.bias"]), average, atol=1e-6)
    assert np.array_equal(np.append(rest["weights.fc.weight"], rest["weights.fc.bias"]), raw[-1])
    plain = make_run(epochs=1)
    plain.trainer.fit()
    assert np.array_equal(plain.weights(), run.weights())


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"eval_epochs": 1}, [6, 12, 18]),
        ({"eval_epochs": 2}, [12, 18]),
        ({"eval_epochs": 0}, [18]),
        ({"eval_epochs": 0, "eval_steps": 4}, [4, 8, 12, 16, 18]),
        ({"eval_epochs": 1, "eval_steps": 4}, [4, 6, 8, 12, 16, 18]),
    ],
)
def test_validations_come_by_epochs_by_steps_and_once_at_the_end(make_run, schedule, steps):
    run = make_run(epochs=3, **schedule)
    run.trainer.fit()
    assert [record["step"] for record in run.records("validation")] == steps


def test_best_is_the_first_of_the_highest_scores(make_run):
    scores = {6: 10.0, 12: 30.0, 18: 30.0, 24: 20.0}
    run = make_run(scores=scores.get, epochs=4)
    run.trainer.fit()
    assert names(run, "best") == [("best", 6), ("best", 12)]
    assert [record["best"] for record in run.records("validation")] == [True, True, False, False]
    assert (run.trainer.progress.best_score, run.trainer.progress.best_step) == (30.0, 12)


def test_a_score_that_never_improves_leaves_the_first_as_best(make_run):
    run = make_run(scores=lambda step: 0.0, epochs=3)
    run.trainer.fit()
    assert names(run, "best") == [("best", 6)]
    assert (run.trainer.progress.best_score, run.trainer.progress.best_step) == (0.0, 6)


def test_last_is_saved_at_epochs_validations_and_save_steps_and_epochs_are_kept(make_run):
    run = make_run(epochs=3, save_epochs=2, save_steps=5, eval_steps=4, eval_epochs=0)
    run.trainer.fit()
    assert names(run, "last") == [("last", step) for step in (4, 5, 6, 8, 10, 12, 15, 16, 18)]
    assert names(run, "epoch_1", "epoch_2", "epoch_3") == [("epoch_2", 12)]


def test_early_stopping_counts_validations_without_a_better_score(make_run):
    scores = {2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5, 10: 9.0}
    run = make_run(scores=scores.get, epochs=3, eval_epochs=0, eval_steps=2, early_stopping=2)
    run.trainer.fit()
    assert run.trainer.progress.step == 8
    assert run.saved[-1] == ("last", 8)
    assert names(run, "best")[-1] == ("best", 4)


def test_the_log_holds_what_was_done(make_run):
    run = make_run(epochs=1, print_step=2)
    run.trainer.fit()
    records = run.records()
    assert [record["step"] for record in records] == [2, 4, 6]
    assert [record["epoch"] for record in records] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [record["lr"] for record in records] == pytest.approx([0.1 / 2, 0.1 / 4, 0.1 / 6])
    assert all(record["samples_per_second"] > 0 and "time" in record for record in records)
    finer = make_run(epochs=1, print_step=1)
    finer.trainer.fit()
    losses = [record["loss"] for record in finer.records()]
    assert [record["loss"] for record in records] == pytest.approx(
        [np.mean(losses[i : i + 2]) for i in (0, 2, 4)]
    )
    (validation,) = run.records("validation")
    assert validation["step"] == 6 and validation["rsum"] == 6.0 and validation["best"]


def test_speed_is_that_of_training_and_time_left_that_of_everything(make_run, monkeypatch):
    clock = itertools.count()  # a second a look
    monkeypatch.setattr("engine.trainer.time.perf_counter", lambda: float(next(clock)))
    run = make_run(
        epochs=1, print_step=3, eval_steps=1, scores=lambda step: [next(clock) for _ in range(1000)] and 1.0
    )
    told = []
    log_step = run.trainer.log.step
    run.trainer.log.step = lambda record, left: (told.append(left), log_step(record, left))
    run.trainer.fit()
    assert all(record["samples_per_second"] > 0.5 for record in run.records()), "12 samples, some seconds"
    assert 2000 < told[0] < 2 * 3000 and told[1] == 0, "two validations in three steps, so three in the next"


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
    run = make_run(batches_of=broken_at(3), epochs=1, on_collapse=on_collapse, save_steps=1)
    with pytest.raises(
        TrainingFailedError, match=r"the loss is nan at step 4: lower OPTIMIZATION\.LR.*CLIP"
    ) as caught:
        run.trainer.fit()
    assert "\n" not in str(caught.value)
    assert run.saved[-1] == ("last", 3)


def test_fallback_skips_the_steps_whose_loss_is_not_a_number(make_run):
    run = make_run(batches_of=broken_at(2, 3), epochs=1, on_collapse="fallback", print_step=2)
    before = {}
    save = run.trainer.optimizer.step
    run.trainer.optimizer.step = lambda: (before.setdefault(run.trainer.progress.step, run.weights()), save())
    run.trainer.fit()
    assert sorted(before) == [0, 1, 4, 5] and np.isfinite(run.weights()).all()
    skipped = run.records("skipped")
    assert [record["step"] for record in skipped] == [3, 4] and "OPTIMIZATION.LR" in skipped[0]["message"]
    assert [record["step"] for record in run.records()] == [2, 6], "steps 3 and 4 have no loss to log"
    assert "NaN" not in run.log_file.read_text(), "which JSON does not know"


def test_skipped_steps_that_are_not_in_a_row_do_not_add_up(make_run):
    run = make_run(batches_of=broken_at(0, 1, 3), epochs=5, on_collapse="fallback")
    run.trainer.fit()
    assert len(run.records("skipped")) == 15


def test_fallback_gives_up_when_no_step_is_sound(make_run):
    run = make_run(batches_of=broken_at(*range(BATCHES)), epochs=9, on_collapse="fallback")
    with pytest.raises(TrainingFailedError, match="at step 10"):
        run.trainer.fit()


def test_weights_that_are_not_numbers_reach_no_checkpoint(make_run):
    run = make_run(epochs=1, save_steps=1)
    step = run.trainer.optimizer.step

    def diverge():
        step()
        if run.trainer.progress.step == 3:
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


def collapsed_run(make_run, **settings):
    def batches_of(epoch, start):
        return BATCHES, [{"image_id": np.arange(4), "sentence_id": np.arange(4)}] * (BATCHES - start)

    loss = HingeLoss(0.2, hard_negative=True, sum_epochs=settings.get("sum_epochs", 0), mask_duplicates=True)
    return make_run(model=Collapsed(), loss=loss, batches_of=batches_of, margin=0.2, **settings)


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


def test_the_sum_of_negatives_comes_first_and_is_no_collapse(make_run):
    run = collapsed_run(make_run, collapse_steps=5, on_collapse="stop", sum_epochs=2, epochs=3)
    with pytest.raises(TrainingFailedError, match="from step 13 to 18"):
        run.trainer.fit()
    assert losses(run) == pytest.approx([SUM] * 12 + [HARDEST] * 5)


@pytest.mark.parametrize(
    ("options", "watched"),
    [([], True), (["LOSS.HARD_NEGATIVE=false"], False), (["LOSS.NAME=contrastive"], False)],
)
def test_only_training_on_the_hardest_negatives_is_watched_for_collapse(options, watched):
    settings = TrainingSettings.from_config(load_config(None, options))
    assert settings.collapse_steps == (300 if watched else 0)


def stop_at(run, step, number=15):
    """Let a signal arrive while the given 0-based step is computed."""
    original = run.trainer.model.forward

    def forward(batch):
        if run.trainer.progress.step == step:
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
    kept = names(stopped, "epoch_1", "epoch_2", "epoch_3") + names(again, "epoch_1", "epoch_2", "epoch_3")
    assert kept == [("epoch_1", 3), ("epoch_2", 6), ("epoch_3", 9)], (
        "also where the stop came at an epoch's end"
    )
    validations = stopped.records("validation") + again.records("validation")
    assert [record["step"] for record in validations] == [3, 6, 9]


def test_a_validation_that_was_stopped_is_done_again(make_run):
    def leave(step):
        run.trainer.stop_signal = 15
        run.trainer.check_signal()

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
    make_run().trainer.check_signal()
    run = make_run()
    run.trainer.stop_signal = 2
    with pytest.raises(ValidationStoppedError):
        run.trainer.check_signal()


def test_mixed_precision_changes_nothing_on_the_cpu(make_run):
    plain, mixed = make_run(), make_run(amp="float16")
    plain.trainer.fit()
    mixed.trainer.fit()
    assert np.array_equal(plain.weights(), mixed.weights())
    assert mixed.states["last"][2]["scaler"] == {}


@pytest.fixture
def scaling(monkeypatch):
    """Let a loss scaler believe in a GPU: its operations exist on the CPU as well."""
    gpu = types.SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr(
        paddle.amp.grad_scaler, "_dygraph_tracer", lambda: types.SimpleNamespace(_expected_place=gpu)
    )
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")


inert = pytest.mark.filterwarnings("ignore:amp_guard can only be enabled", "ignore::DeprecationWarning")


@inert
def test_the_loss_scaler_scales_steps_and_is_saved_and_resumed(make_run, scaling):
    plain, mixed = make_run(amp="bfloat16"), make_run(amp="float16")
    assert mixed.trainer.scaler.is_enable() and not plain.trainer.scaler.is_enable()
    plain.trainer.fit()
    mixed.trainer.fit()
    assert np.allclose(plain.weights(), mixed.weights(), atol=1e-6), "a power of two scales without loss"
    values = json.loads(json.dumps(mixed.states["last"][2]))
    assert values["scaler"]["incr_count"] == 12
    again = make_run(amp="float16", epochs=3)
    restore_training(again.trainer, *mixed.states["last"][:2], values)
    assert again.trainer.scaler.state_dict()["incr_count"] == 12
    again.trainer.fit()


@inert
def test_a_gradient_that_overflows_is_skipped_and_the_scale_lowered(make_run, scaling):
    run = make_run(amp="float16", epochs=1)
    run.trainer.scaler.load_state_dict(
        run.trainer.scaler.state_dict() | {"scale": np.array([3e38], np.float32)}
    )
    before = run.weights()
    group = list(run.trainer.batches_of(0, 0)[1])[:1]
    run.trainer._train_step(group, 0)
    assert np.array_equal(run.weights(), before)
    assert run.trainer.scaler.state_dict()["scale"] < 2e38
