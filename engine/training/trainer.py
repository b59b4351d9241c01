"""The training loop of every model."""

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, Protocol

import numpy as np
import paddle

from engine.parallel.processes import ValidationStoppedError, average_gradients, broadcast_values
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.runs.run_log import RunLog, validation_line
from engine.training.meter import Meter
from engine.training.outcomes import (
    TrainingFailedError,
    TrainingStoppedError,
    broken_loss,
    broken_weights,
    is_broken,
    nothing_left,
)
from engine.training.position import TrainingPosition
from engine.training.settings import TrainingSettings
from engine.training.training_state import Arrays, training_state
from engine.training.weight_average import WeightAverage
from engine.weights.tensors import layer_tensors
from models.kernels.precision import BFLOAT16, check_bfloat16, computing_in

MAX_SKIPPED = 10
"""Training fails at this many steps in a row with a broken loss, even if broken steps are skipped."""


class Watcher(Protocol):
    """Something that looks at every step, and may warn, change the loss, or raise TrainingFailedError.

    `losses` holds means over all processes; `outputs` is what the model returned, in this process, for the
    last batch of the step. A checkpoint keeps `state()`, a dict of plain values, under `name`.
    """

    name: str

    def after_step(
        self, step: int, epoch: int, losses: dict[str, float], outputs: dict[str, paddle.Tensor]
    ) -> None: ...

    def state(self) -> dict: ...

    def restore(self, state: dict) -> None: ...


class Trainer:
    """Train `model`, which holds its initial weights, with `loss`.

    `batches_of(epoch, start)` returns the number of batches in `epoch` and an iterator over those from
    `start` on, as named arrays. The number is the same in every epoch, except one that was resumed with
    another batch size. `samples` is the number of training samples in an epoch. `schedule` gives the learning
    rate of a 0-based step. `validate(show)` returns named metrics, in process 0 at least, and calls `show` at
    every block of work. `save(names, model, rest, values)` writes the checkpoints `names` (`best`, `epoch_N`,
    `last`), in that order; process 0 calls it in a thread, with a copy of the state (see `training_state`).

    With AMP=bfloat16 on the CPU, layers multiply in bfloat16, forward and backward; all else is in float32.
    Random numbers depend on the seed, the position and the process alone: no state of a generator is saved,
    and a resumed run repeats an uninterrupted one bit for bit. All processes take the same decisions: each is
    made from values that were all-reduced or broadcast.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        loss: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Callable[[int], float],
        batches_of: Callable[[int, int], tuple[int, Iterable[Arrays]]],
        settings: TrainingSettings,
        log: RunLog,
        validate: Callable[[Callable[..., None]], dict[str, float]],
        save: Callable[[list[str], Arrays, Arrays, dict], None],
        watchers: Iterable[Watcher] = (),
        rank: int = 0,
        world_size: int = 1,
        samples: int = 0,
    ):
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.batches_of, self.settings, self.log = batches_of, settings, log
        self.validate, self.save, self.watchers = validate, save, list(watchers)
        self.rank, self.world_size, self.samples = rank, world_size, samples
        self.batches_per_epoch = batches_of(0, 0)[0]
        self.steps_per_epoch = -(-self.batches_per_epoch // settings.accumulation_steps)
        self.position = TrainingPosition()
        self.average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        on_cpu = paddle.get_device() == "cpu"
        self.amp = "off" if on_cpu else settings.amp  # Paddle's, which has no effect on a CPU
        self.lowered = on_cpu and settings.amp == BFLOAT16
        if self.lowered:
            check_bfloat16("RUNTIME.AMP")
        self.scaler = paddle.amp.GradScaler(enable=self.amp == "float16")
        self.stop_signal = 0  # set by the signal handler of this process
        self._stopping = False  # agreed among the processes
        self._skipped = 0  # steps in a row
        self._writer = CheckpointWriter()
        self._parameters = [*model.parameters(), *loss.parameters()]

    def fit(self) -> None:
        """Train from `position` to the end of the last epoch, or to early stopping.

        Raises TrainingStoppedError after a signal (the state is saved), TrainingFailedError, and UserError
        where a checkpoint cannot be written. All checkpoints are written when it returns or raises.
        """
        position, settings = self.position, self.settings
        self._meter = Meter()
        self.log.start(self.total_steps, position.step, position.best_score)
        with self._writer:  # on leaving, it finishes the checkpoint that is being written
            if position.interrupted:  # by a signal, before the validation and saving of this step
                position.interrupted = False
                self._validate_and_save()
            while not nothing_left(position, settings):
                epoch = position.epoch
                count, batches = self.batches_of(epoch, position.batch)
                self.model.train()
                for group in _grouped(batches, settings.accumulation_steps):
                    losses, outputs = self._step(group, epoch)
                    position.advance(len(group), count)
                    for watcher in self.watchers:
                        watcher.after_step(position.step, epoch, losses, outputs)
                    del outputs  # free this memory before the next step
                    self._log_step(group, losses)
                    if self._stopping:
                        self._save_and_stop()
                    self._validate_and_save()
                    if nothing_left(position, settings):
                        break

    def _validate_and_save(self) -> None:
        """Validate and save checkpoints, if they are due after this step."""
        with self._meter.paused():
            if self._validation_due():
                self._validate()
            if names := self._checkpoints_due():
                self._save(names)

    def _step(self, group: list[Arrays], epoch: int) -> tuple[dict[str, float], dict[str, paddle.Tensor]]:
        """Take one optimizer step on the mean loss of the batches of `group`.

        Returns the terms of the loss, as means over all processes, and the outputs for the last batch.
        """
        step = self.position.step
        paddle.seed(_step_seed(self.settings.seed, step, self.rank))
        sums: dict[str, float] = {}
        for arrays in group:
            batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
            with self._mixed_precision():
                outputs = self.model(batch)
                terms = self.loss(outputs, batch, epoch)
            self.scaler.scale(sum(terms.values()) / len(group)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(group)
        *means, stop = average_gradients(self._parameters, [*sums.values(), float(self.stop_signal)])
        self._stopping = stop > 0  # if one process got a signal, all stop after the same step
        losses = dict(zip(sums, means, strict=True))
        if is_broken(sum(means)):
            self._skip_or_fail(step + 1, sum(means))
        else:
            self.optimizer.set_lr(self.schedule(step + self.position.schedule_shift))
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update(step)
            self._skipped = 0
        self.optimizer.clear_grad(set_to_zero=False)
        return losses, outputs

    def _mixed_precision(self) -> contextlib.AbstractContextManager:
        if self.lowered:
            return computing_in(BFLOAT16)
        enabled = self.amp != "off"
        return paddle.amp.auto_cast(enable=enabled, dtype=self.amp if enabled else "float16")

    def _skip_or_fail(self, step: int, loss: float) -> None:
        self._skipped += 1
        if not self.settings.skip_broken or self._skipped >= MAX_SKIPPED:
            raise TrainingFailedError(broken_loss(step, loss))
        self.log.event("skipped", step, f"warning: step skipped; {broken_loss(step, loss)}")

    def _log_step(self, group: list[Arrays], losses: dict[str, float]) -> None:
        """Count a step, and log the mean of each loss every `print_step` steps.

        Raises the error of a checkpoint that could not be written meanwhile.
        """
        position = self.position
        self.log.advance()
        self._writer.check()
        self._meter.add(losses, self.world_size * sum(len(arrays["image_id"]) for arrays in group))
        if position.step % self.settings.print_step:
            return
        terms, speed = self._meter.read()
        if not terms:
            return
        scheduled = position.step + position.schedule_shift
        record = {
            "step": position.step,
            "epoch": scheduled / self.steps_per_epoch,
            "loss": sum(terms.values()),
            **(terms if len(terms) > 1 else {}),
            "lr": self.schedule(scheduled - 1),
            "samples_per_second": speed,
        }
        self.log.step(record, self._meter.seconds_left(self.total_steps - position.step))

    def _validation_due(self) -> bool:
        position, settings = self.position, self.settings
        ended = position.epoch_ended
        by_epoch = settings.eval_epochs and ended and position.epoch % settings.eval_epochs == 0
        by_step = settings.eval_steps and position.step % settings.eval_steps == 0
        at_end = ended and position.epoch == settings.epochs
        return bool(by_epoch or by_step or at_end)

    def _validate(self) -> None:
        """Measure the dev split, with the averaged weights if there are any, and log the result.

        Process 0 broadcasts its score, and whether a signal stopped the validation.
        """
        self._check_weights()
        position, metrics = self.position, None
        averaged = contextlib.nullcontext() if self.average is None else self.average.applied()
        with contextlib.suppress(ValidationStoppedError), averaged:
            metrics = self.validate(self.during_validation)
        score = metrics[self.settings.best_metric] if metrics and self.rank == 0 else 0.0
        stopped, score = broadcast_values([float(metrics is None), score])
        if stopped:
            self._save_and_stop()
        better = position.judge(score)
        if self.rank == 0:
            best = None if better else (position.best_score, position.best_step)
            line = validation_line(position.step, metrics, best)
            self.log.validation({"step": position.step, **metrics, "best": better}, line, position.best_score)

    def during_validation(self, *_: object) -> None:
        """Write a heartbeat; after a signal, end the validation, which a resume then repeats."""
        self.log.heartbeat()
        if self.stop_signal:
            raise ValidationStoppedError

    def _checkpoints_due(self) -> list[str]:
        """Return the names to save.

        `last` comes after `best`, so that no resumed run knows a best score whose weights were not saved.
        """
        position, settings, names = self.position, self.settings, []
        validated = position.last_validation == position.step
        if validated and position.best_step == position.step:
            names.append("best")
        if position.epoch_ended and settings.save_epochs and position.epoch % settings.save_epochs == 0:
            names.append(f"epoch_{position.epoch}")
        by_step = settings.save_steps and position.step % settings.save_steps == 0
        if validated or position.epoch_ended or by_step:
            names.append("last")
        return names

    def _save(self, names: list[str]) -> None:
        self._check_weights()
        self._writer.finish()  # before the state is copied, so that memory never holds two copies
        if self.rank == 0:
            self._writer.start(self.save, names, *training_state(self))

    def _save_and_stop(self) -> NoReturn:
        self.position.interrupted = True
        self._save(["last"])
        raise TrainingStoppedError(self.stop_signal or signal.SIGTERM)

    def _check_weights(self) -> None:
        """Raise TrainingFailedError for NaN or infinity in the weights, so that no checkpoint holds them."""
        for name, tensor in layer_tensors(self.model).items():
            if not np.isfinite(tensor.numpy()).all():
                raise TrainingFailedError(broken_weights(self.position.step, name))

    @property
    def total_steps(self) -> int:
        """Return the step at which the last epoch ends."""
        return self.steps_per_epoch * self.settings.epochs - self.position.schedule_shift

    def shift_schedule(self) -> None:
        """Set `schedule_shift` after a resume with another number of steps in an epoch.

        The step of the schedule is then a multiple of `steps_per_epoch` again at the end of every epoch.
        """
        position, left = self.position, self.batches_of(self.position.epoch, 0)[0] - self.position.batch
        steps_left = -(-left // self.settings.accumulation_steps)
        position.schedule_shift = (position.epoch + 1) * self.steps_per_epoch - steps_left - position.step
        if not left:  # the rest does not fill a batch: the epoch ends, and what is due there is done first
            position.epoch, position.finished_parts, position.interrupted = position.epoch + 1, [], True


def _grouped(batches: Iterable[Arrays], size: int) -> Iterator[list[Arrays]]:
    group: list[Arrays] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step in a process; neighbours get different ones."""
    return (seed * 1_000_003 + step * 8191 + rank * 131) % (2**31 - 1)
