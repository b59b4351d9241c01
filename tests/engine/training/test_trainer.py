"""The loop: which steps it takes, what it averages, when it validates, saves and ends."""

import itertools
import math

import numpy as np
import pytest

from engine.training.trainer import _step_seed

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
    assert (run.trainer.position.step, run.trainer.position.epoch, run.trainer.position.batch) == (6, 2, 0)


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
    assert accumulated.trainer.position.step == whole.trainer.position.step == 2 * math.ceil(batches / 2)
    assert np.allclose(accumulated.weights(), whole.weights(), atol=1e-6)
    both = zip(accumulated.records(), whole.records(), strict=True)
    assert all(abs(one["loss"] - other["loss"]) < 1e-5 for one, other in both)


def test_averaged_weights_are_evaluated_and_saved_while_training_goes_on_from_its_own(make_run):
    raw, seen = [], []
    run = make_run(ema_decay=0.5, epochs=1, eval_steps=1)
    update = run.trainer.average.update
    run.trainer.average.update = lambda step: (raw.append(run.weights()), update(step))
    run.trainer.validate = lambda show: (seen.append(run.weights()), {**METRICS, "rsum": float(len(seen))})[1]
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
    assert (run.trainer.position.best_score, run.trainer.position.best_step) == (30.0, 12)


def test_a_score_that_never_improves_leaves_the_first_as_best(make_run):
    run = make_run(scores=lambda step: 0.0, epochs=3)
    run.trainer.fit()
    assert names(run, "best") == [("best", 6)]
    assert (run.trainer.position.best_score, run.trainer.position.best_step) == (0.0, 6)


def test_last_is_saved_at_epochs_validations_and_save_steps_and_epochs_are_kept(make_run):
    run = make_run(epochs=3, save_epochs=2, save_steps=5, eval_steps=4, eval_epochs=0)
    run.trainer.fit()
    assert names(run, "last") == [("last", step) for step in (4, 5, 6, 8, 10, 12, 15, 16, 18)]
    assert names(run, "epoch_1", "epoch_2", "epoch_3") == [("epoch_2", 12)]


def test_early_stopping_counts_validations_without_a_better_score(make_run):
    scores = {2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5, 10: 9.0}
    run = make_run(scores=scores.get, epochs=3, eval_epochs=0, eval_steps=2, early_stopping=2)
    run.trainer.fit()
    assert run.trainer.position.step == 8
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
    monkeypatch.setattr("engine.training.meter.time.perf_counter", lambda: float(next(clock)))
    run = make_run(
        epochs=1, print_step=3, eval_steps=1, scores=lambda step: [next(clock) for _ in range(1000)] and 1.0
    )
    told = []
    log_step = run.trainer.log.step
    run.trainer.log.step = lambda record, left: (told.append(left), log_step(record, left))
    run.trainer.fit()
    assert all(record["samples_per_second"] > 0.5 for record in run.records()), "12 samples, some seconds"
    assert 2000 < told[0] < 2 * 3000 and told[1] == 0, "two validations in three steps, so three in the next"
