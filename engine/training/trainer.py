"""The training loop: every model trains here."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import paddle

from engine.parallel.processes import ValidationStoppedError, average_gradients, broadcast_values
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.runs.run_log import RunLog, validation_line
from engine.training.collapse_guard import MAX_SKIPPED, CollapseGuard, broken_loss, broken_weights, is_broken
from engine.training.progress import Progress, TrainingFailedError, TrainingSettings, TrainingStoppedError
from engine.training.weight_average import WeightAverage
from engine.weights.tensors import layer_tensors

Batch = dict[str, np.ndarray]


class Trainer:
    """Train `model`, which holds its initial weights, with `loss`.

    `batches_of(epoch, start)` returns how many batches an epoch has (as many as any, but for one that was
    taken up), and those from `start` on as named arrays; an epoch is made of `samples`. `schedule` gives the
    learning rate of a 0-based step; `validate` returns named metrics, in process 0 at least; `save` takes
    names of checkpoints (`best`, `epoch_N`, `last`), copies the state that they are to hold, and returns what
    writes them, in that order, which is called in a thread.
    Randomness is a function of seed, step and process, so there is no generator state to save, and a resumed
    run repeats the undisturbed one bit for bit. Whatever decides where all processes go next is agreed among
    them.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        loss: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Callable[[int], float],
        batches_of: Callable[[int, int], tuple[int, Iterable[Batch]]],
        settings: TrainingSettings,
        log: RunLog,
        validate: Callable[[], dict[str, float]],
        save: Callable[[list[str]], Callable[[], None]],
        rank: int = 0,
        world_size: int = 1,
        samples: int = 0,
    ):
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.batches_of, self.settings, self.log = batches_of, settings, log
        self.validate, self.save = validate, save
        self.rank, self.world_size, self.samples = rank, world_size, samples
        self.batches_per_epoch = batches_of(0, 0)[0]
        self.steps_per_epoch = -(-self.batches_per_epoch // settings.accumulation_steps)
        self.progress = Progress()
        self.guard = CollapseGuard(settings.margin, settings.collapse_steps)
        self.average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        self.amp = settings.amp if paddle.get_device() != "cpu" else "off"  # Paddle's has no effect there
        self.scaler = paddle.amp.GradScaler(enable=self.amp == "float16")
        self.stop_signal = 0  # set from outside, in this process
        self._stopping = False  # agreed among the processes
        self._skipped = 0  # steps in a row
        self._start = 0.0, 0
        self._writer = CheckpointWriter()
        self._parameters = [*model.parameters(), *loss.parameters()]
        self._restart_clock()

    @property
    def total_steps(self) -> int:
        """The step at which the last epoch ends."""
        return self.steps_per_epoch * self.settings.epochs - self.progress.schedule_shift

    def shift_schedule(self) -> None:
        """Let the schedule go on where the epochs stand, after a resume with another length of an epoch."""
        progress, left = self.progress, self.batches_of(self.progress.epoch, 0)[0] - self.progress.batch
        steps_left = -(-left // self.settings.accumulation_steps)
        progress.schedule_shift = (progress.epoch + 1) * self.steps_per_epoch - steps_left - progress.step
        if not left:  # too few for a batch: the epoch is over, and what is due at its end
            progress.epoch, progress.finished_parts, progress.interrupted = progress.epoch + 1, [], True

    def fit(self) -> None:
        """Train from where `progress` stands to the last epoch, or to early stopping.

        Raises TrainingStoppedError after a signal (the state is saved), TrainingFailedError, and UserError
        where a checkpoint cannot be written. All writing is done at the end.
        """
        try:
            self._train()
        except Exception:
            self._writer.finish()
            raise
        self._writer.finish()

    def _train(self) -> None:
        self.log.start(self.total_steps, self.progress.step, self.progress.best_score)
        self._start = time.perf_counter(), self.progress.step
        self._restart_clock()
        if self.progress.interrupted:
            self.progress.interrupted = False
            self._validate_and_save()
        while self.progress.epoch < self.settings.epochs and not self._stopped_early():
            self._train_epoch(self.progress.epoch)

    def _train_epoch(self, epoch: int) -> None:
        count, batches = self.batches_of(epoch, self.progress.batch)
        self.model.train()
        for group in _grouped(batches, self.settings.accumulation_steps):
            self._train_step(group, epoch)
            progress = self.progress
            progress.batch += len(group)
            progress.step += 1
            if progress.batch == count:
                progress.epoch, progress.batch, progress.finished_parts = epoch + 1, 0, []
            self._after_step()
            if self._stopped_early():
                return

    def _train_step(self, group: list[Batch], epoch: int) -> None:
        """Take one optimizer step on the batches of `group`."""
        step, settings = self.progress.step, self.settings
        paddle.seed(_step_seed(settings.seed, step, self.rank))
        if settings.collapse_steps:
            self.loss.sum_epochs = self._sum_epochs()
        sums, outputs = self._accumulate_gradients(group, epoch)
        values = average_gradients(self._parameters, [*sums.values(), float(self.stop_signal)])
        self._stopping = values[-1] > 0  # whichever process was asked, all stop after the same step
        losses = dict(zip(sums, values, strict=False))
        total = sum(losses.values())
        if is_broken(total):
            self._skip_or_fail(step + 1, total)
        else:
            self.optimizer.set_lr(self.schedule(step + self.progress.schedule_shift))
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update(step)
            self._skipped = 0
            self._window.append(losses)
        self.optimizer.clear_grad(set_to_zero=False)
        pairs = sum(len(arrays["image_id"]) for arrays in group)
        self._pairs_since_log += pairs * self.world_size
        if (step + 1) % settings.print_step == 0:
            self._watch_for_collapse(step + 1, epoch, losses, outputs)

    def _accumulate_gradients(
        self, group: list[Batch], epoch: int
    ) -> tuple[dict[str, float], dict[str, paddle.Tensor]]:
        """Add up the gradients of the mean loss of `group`; return its terms, and the last outputs."""
        sums: dict[str, float] = {}
        outputs: dict[str, paddle.Tensor] = {}
        for arrays in group:
            batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
            dtype = "float16" if self.amp == "off" else self.amp
            with paddle.amp.auto_cast(enable=self.amp != "off", dtype=dtype):
                outputs = self.model(batch)
                terms = self.loss(outputs, batch, epoch)
            self.scaler.scale(sum(terms.values()) / len(group)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(group)
        return sums, outputs

    def _skip_or_fail(self, step: int, loss: float) -> None:
        self._skipped += 1
        if self.settings.on_collapse != "fallback" or self._skipped >= MAX_SKIPPED:
            raise TrainingFailedError(broken_loss(step, loss))
        self.log.event("skipped", step, f"warning: step skipped; {broken_loss(step, loss)}")

    def _sum_epochs(self) -> int:
        return max(self.settings.sum_epochs, self.progress.sum_until)

    def _watch_for_collapse(
        self,
        step: int,
        epoch: int,
        losses: dict[str, float],
        outputs: dict[str, paddle.Tensor],
    ) -> None:
        settings, progress = self.settings, self.progress
        if not settings.collapse_steps or epoch < self._sum_epochs():
            return
        scores = outputs["scores"]
        pairs, spread = len(scores), float(paddle.std(scores))
        self.guard.stuck_since, self.guard.reported = progress.stuck_since, progress.collapse_reported
        collapsed = self.guard.observe(step, losses["hinge"], pairs, spread)
        progress.stuck_since, progress.collapse_reported = self.guard.stuck_since, self.guard.reported
        # Scores differ between processes; what process 0 sees decides for all.
        if not broadcast_values([float(collapsed)])[0]:
            return
        line = self.guard.message(step, pairs)
        if settings.on_collapse == "stop":
            raise TrainingFailedError(line)
        self.log.event("collapse", step, f"warning: {line}")
        if settings.on_collapse == "fallback":
            progress.sum_until = epoch + 2  # the rest of this epoch, and one more
            progress.stuck_since, progress.collapse_reported = -1, False
            self.log.print_line(
                f"training on the sum of negatives until the end of epoch {progress.sum_until}"
            )

    def _after_step(self) -> None:
        self.log.advance()
        self._writer.check()
        if self.progress.step % self.settings.print_step == 0 and self._window:
            self._log_step()
        if self._stopping:
            self._stop()
        self._validate_and_save()

    def _validate_and_save(self) -> None:
        """Do what is due after the steps taken so far; a resume does what a signal left undone."""
        progress, settings = self.progress, self.settings
        started = time.perf_counter()
        validated = self._validation_due()
        names = ["best"] if validated and self._validate() else []
        if progress.epoch_ended and settings.save_epochs and progress.epoch % settings.save_epochs == 0:
            names.append(f"epoch_{progress.epoch}")
        if (
            validated
            or progress.epoch_ended
            or (settings.save_steps and progress.step % settings.save_steps == 0)
        ):
            names.append("last")  # behind `best`: it must not know of a score whose weights are lost
        if names:
            self._save(names)
        self._clock += time.perf_counter() - started  # samples/s is that of training

    def _log_step(self) -> None:
        """Log the mean of each loss since the last logged step."""
        progress = self.progress
        now, left = time.perf_counter(), self.total_steps - progress.step
        scheduled = progress.step + progress.schedule_shift
        terms = {name: sum(losses[name] for losses in self._window) for name in self._window[0]}
        terms = {name: value / len(self._window) for name, value in terms.items()}
        record = {
            "step": progress.step,
            "epoch": scheduled / self.steps_per_epoch,
            "loss": sum(terms.values()),
            **(terms if len(terms) > 1 else {}),
            "lr": self.schedule(scheduled - 1),
            "samples_per_second": self._pairs_since_log / (now - self._clock),
        }
        start_time, start_step = self._start
        self.log.step(record, left * (now - start_time) / (progress.step - start_step))
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._pairs_since_log = time.perf_counter(), 0
        self._window: list[dict[str, float]] = []

    def _validation_due(self) -> bool:
        progress, settings = self.progress, self.settings
        ended = progress.epoch_ended
        by_epoch = settings.eval_epochs and ended and progress.epoch % settings.eval_epochs == 0
        by_step = settings.eval_steps and progress.step % settings.eval_steps == 0
        at_end = ended and progress.epoch == settings.epochs
        return bool(by_epoch or by_step or at_end)

    def _validate(self) -> bool:
        """Measure the dev split; process 0 has the metrics, and is told whether they are the best."""
        self._check_weights()
        progress, metrics = self.progress, None
        with contextlib.suppress(ValidationStoppedError):
            metrics = self._measure()
        if broadcast_values([float(metrics is None)])[0]:
            self._stop()
        progress.last_validation = progress.step
        better = self._judge(metrics) if self.rank == 0 else False
        best = [progress.best_score or 0.0, progress.best_step, progress.validations_without_gain]
        progress.best_score, *counts = broadcast_values(best)
        progress.best_step, progress.validations_without_gain = map(int, counts)
        return better

    def _measure(self) -> dict[str, float]:
        """Return the metrics of the averaged weights if there are any, else of the model's own."""
        if self.average is None:
            return self.validate()
        with self.average.applied():
            return self.validate()

    def _judge(self, metrics: dict[str, float]) -> bool:
        progress, score = self.progress, metrics[self.settings.best_metric]
        better = progress.best_score is None or score > progress.best_score
        if better:
            progress.best_score, progress.best_step = score, progress.step
            progress.validations_without_gain = 0
        else:
            progress.validations_without_gain += 1
        record = {"step": progress.step, **metrics, "best": better}
        best = None if better else (progress.best_score, progress.best_step)
        line = validation_line(progress.step, metrics, best)
        self.log.validation(record, line, progress.best_score)
        return better

    def check_signal(self) -> None:
        """Leave a validation early after a signal; a resume does it again."""
        if self.stop_signal:
            raise ValidationStoppedError

    def _stop(self) -> None:
        self.progress.interrupted = True
        self._save(["last"])
        raise TrainingStoppedError(self.stop_signal or signal.SIGTERM)

    def _save(self, names: list[str]) -> None:
        self._check_weights()
        self._writer.finish()  # first, so that there is never a second copy
        self._writer.start(self.save(names))

    def _check_weights(self) -> None:
        """Keep weights that are not numbers out of every checkpoint: a resume must be able to go on."""
        for name, tensor in layer_tensors(self.model).items():
            if not np.isfinite(tensor.numpy()).all():
                raise TrainingFailedError(broken_weights(self.progress.step, name))

    def _stopped_early(self) -> bool:
        patience = self.settings.early_stopping
        return bool(patience) and self.progress.validations_without_gain >= patience


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed of its own for every step and process."""
    return (seed * 1_000_003 + step * 8191 + rank * 131) % (2**31 - 1)
