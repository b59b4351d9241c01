"""Copies the state of a trainer for a checkpoint, and restores it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import paddle

from config.errors import UserError
from datasets.samplers.batches import FinishedPart
from engine.training.position import TrainingPosition
from engine.weights.tensors import assign_arrays, check_arrays, layer_arrays
from models.kernels.choice import chosen
from solvers.optimizer import optimizer_state, restore_optimizer_state

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

Arrays = dict[str, np.ndarray]

SOURCE = "the checkpoint to resume from"


def named_parameters(model: paddle.nn.Layer, loss: paddle.nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """Return all trained parameters: the model's, and the loss's (such as a temperature) under `loss.`."""
    return [*model.named_parameters(), *((f"loss.{name}", value) for name, value in loss.named_parameters())]


def training_state(trainer: "Trainer") -> tuple[Arrays, Arrays, dict]:
    """Return copies of the state: tensors of the model, other tensors, and values for `state.json`.

    `engine/runs/checkpoint.py` lists all names.
    """
    model = layer_arrays(trainer.model)
    moments = optimizer_state(trainer.optimizer, named_parameters(trainer.model, trainer.loss))
    rest = {f"optimizer.{name}": array for name, array in moments.items()}
    rest |= {f"loss.{name}": array for name, array in layer_arrays(trainer.loss).items()}
    if trainer.average is not None:
        rest |= {f"weights.{name}": array for name, array in model.items()}
        model = trainer.average.arrays()
    values = {
        "progress": asdict(trainer.position),
        "watchers": {watcher.name: watcher.state() for watcher in trainer.watchers},
        "epoch_length": epoch_length(trainer),
        "products": chosen().libraries() if paddle.get_device() == "cpu" else {},
        "scaler": {name: np.asarray(value).tolist() for name, value in trainer.scaler.state_dict().items()},
    }
    return model, rest, values


def restore_training(
    trainer: "Trainer",
    model: Arrays,
    rest: Arrays,
    values: dict,
    resume_within_epoch: Callable[[int, list[FinishedPart]], None] | None = None,
) -> bool:
    """Restore in `trainer` the state that `training_state` returned; tell whether an epoch's length differs.

    The length differs if the batches or steps of an epoch, or the size of a global batch, have changed. Then
    `resume_within_epoch(epoch, finished_parts)` lets the sampler batch the rest of the epoch anew; without
    this function the length must not differ. Raises UserError for the state of another model, optimizer or
    data set, and if averaging of weights was switched on or off.
    """
    try:
        values = todays_layout(values)
        position = TrainingPosition(**values["progress"])
        length, scaler, watched = values["epoch_length"], values["scaler"], values["watchers"]
        for watcher in trainer.watchers:
            if watcher.name in watched:
                watcher.restore(watched[watcher.name])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{SOURCE}: its state.json does not say where training stood ({error}); use another checkpoint"
        ) from error
    now = epoch_length(trainer)
    other_length = any(length.get(name) != now[name] for name in ("batches", "steps"))
    other_length = other_length or length.get("batch", now["batch"]) != now["batch"]
    if other_length and (resume_within_epoch is None or length.get("samples") != now["samples"]):
        before, after = (f"{each['batches']} batches in {each['steps']} steps" for each in (length, now))
        raise UserError(
            f"cannot resume: an epoch was {before}, now it is {after}, and not of the same data; resume with "
            "the data of before, or start a new run from the weights with PRETRAINED.DIR=<run>/last"
        )
    weights, loss = _under("weights.", rest), _under("loss.", rest)
    if bool(weights) != (trainer.average is not None):
        raise UserError(
            "cannot resume: OPTIMIZATION.EMA_DECAY was switched on or off since the checkpoint; resume with "
            "the value it had"
        )
    check_arrays(trainer.model, model, SOURCE)
    check_arrays(trainer.model, weights or model, f"{SOURCE} (trained weights)")
    check_arrays(trainer.loss, loss, f"{SOURCE} (loss)")
    try:
        parameters = named_parameters(trainer.model, trainer.loss)
        restore_optimizer_state(trainer.optimizer, parameters, _under("optimizer.", rest))
    except ValueError as error:
        raise UserError(
            f"cannot resume: {error}; resume with the OPTIMIZATION.OPTIMIZER it was saved with"
        ) from error
    assign_arrays(trainer.model, weights or model)
    assign_arrays(trainer.loss, loss)
    if trainer.average is not None:
        trainer.average.restore(model)
    if scaler:
        trainer.scaler.load_state_dict(scaler)
    if other_length and position.batch:
        position.finished_parts.append([length["batch"], length["processes"], position.batch])
        position.batch = 0
    if position.finished_parts:
        resume_within_epoch(position.epoch, [FinishedPart(*part) for part in position.finished_parts])
    trainer.position = position
    if other_length:
        trainer.shift_schedule()
    return other_length


def todays_layout(values: dict) -> dict:
    """Return the values of a `state.json` of any version in today's layout.

    Before there were watchers, `progress` held the state of the collapse guard, even in a run without one,
    and `finished_parts` was called `begun`.
    """
    progress, watchers = dict(values["progress"]), dict(values.get("watchers", {}))
    if "begun" in progress:
        progress["finished_parts"] = progress.pop("begun")
    guard = {"sum_until": "sum_until", "stuck_since": "stuck_since", "collapse_reported": "reported"}
    if guard.keys() <= progress.keys():
        watchers["collapse_guard"] = {new: progress.pop(old) for old, new in guard.items()}
    return {**values, "progress": progress, "watchers": watchers}


def epoch_length(trainer: "Trainer") -> dict[str, int]:
    """Return the batches, steps and samples of an epoch, the size of a global batch, and the processes."""
    return {
        "batches": trainer.batches_per_epoch,
        "steps": trainer.steps_per_epoch,
        "samples": trainer.samples,
        "batch": trainer.settings.batch_size * trainer.world_size,
        "processes": trainer.world_size,
    }


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
