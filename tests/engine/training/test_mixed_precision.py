"""Mixed precision rests on the CPU; its loss scaler is tried there all the same."""

import json
import types

import numpy as np
import paddle
import pytest

from engine.training.training_state import restore_training


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
    run.trainer._step(group, 0)
    assert np.array_equal(run.weights(), before)
    assert run.trainer.scaler.state_dict()["scale"] < 2e38
