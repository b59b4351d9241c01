"""Mixed precision: bfloat16 on the CPU, and the loss scaler of float16, which is tried there all the same."""

import dataclasses
import json
import types

import numpy as np
import paddle
import pytest

from config.errors import UserError
from engine.training.training_state import restore_training
from models.kernels import onednn
from models.kernels.choice import chosen
from models.layers.lowered import Linear
from tests.closeness import assert_close


class LoweredLine(paddle.nn.Layer):
    """Predict a number from three by a layer that may multiply in bfloat16."""

    def __init__(self):
        super().__init__()
        paddle.seed(0)
        self.fc = Linear(3, 1)

    def forward(self, batch):
        return {"scores": self.fc(batch["x"])}


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_rounds_in_training_and_a_resumed_run_repeats_it(make_run):
    runs = [make_run(model=LoweredLine(), amp=amp, epochs=2) for amp in ("off", "bfloat16", "bfloat16")]
    plain, lowered, stopped = runs
    for run in (plain, lowered):
        run.trainer.fit()
    assert not np.array_equal(plain.weights(), lowered.weights())
    assert lowered.trainer.model.fc.weight.dtype == paddle.float32
    error = [run.records()[-1]["loss"] for run in (plain, lowered)]
    assert error[1] < 2 * error[0] + 1e-3

    stopped.trainer.settings = dataclasses.replace(stopped.trainer.settings, epochs=1)
    stopped.trainer.fit()
    again = make_run(model=LoweredLine(), amp="bfloat16", epochs=2)
    restore_training(again.trainer, *stopped.states["last"])
    again.trainer.fit()
    np.testing.assert_array_equal(again.weights(), lowered.weights())
    assert again.states["last"][2]["products"] == chosen().libraries()


def test_bfloat16_without_instructions_is_one_line(make_run, monkeypatch):
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"^RUNTIME.AMP: expected a CPU that multiplies bfloat16[^\n]*$"):
        make_run(amp="bfloat16")


def test_float16_changes_nothing_on_the_cpu(make_run):
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
    assert_close(plain.weights(), mixed.weights(), 12 * 20)  # a power of two scales without loss
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
