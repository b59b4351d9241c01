"""The training loop: every model trains here."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import paddle
from yacs.config import CfgNode

from config.errors import UserError
from engine.checkpoint import assign_arrays, check_arrays, layer_arrays, layer_tensors
from engine.distributed import average_gradients, broadcast_values
from engine.guard import CollapseGuard, broken_message, is_broken
from engine.run_log import RunLog
from solvers.optimizer import optimizer_state, restore_optimizer_state


@dataclass(frozen=True)
class TrainingSettings:
    """What the loop needs to know; the meaning of each stands at its key in `config/default.py`."""

    epochs: int
    seed: int
    accumulation_steps: int = 1
    amp: str = "off"
    ema_decay: float = 0.0
    print_step: int = 10
    eval_epochs: int = 1
    eval_steps: int = 0
    best_metric: str = "rsum"
    early_stopping: int = 0
    save_epochs: int = 0
    save_steps: int = 0
    margin: float = 0.0
    collapse_steps: int = 0
    on_collapse: str = "warn"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TrainingSettings":
        """Take the settings from their keys."""
        return cls(
            epochs=cfg.OPTIMIZATION.EPOCHS,
            seed=cfg.MISC.SEED,
            accumulation_steps=cfg.OPTIMIZATION.GRADIENT_ACCUMULATION_STEPS,
            amp=cfg.RUNTIME.AMP,
            ema_decay=cfg.OPTIMIZATION.EMA_DECAY,
            print_step=cfg.MONITOR.PRINT_STEP,
            eval_epochs=cfg.MONITOR.EVAL_FREQ,
            eval_steps=cfg.MONITOR.EVAL_STEP,
            best_metric=cfg.MONITOR.BEST_METRIC,
            early_stopping=cfg.OPTIMIZATION.EARLY_STOPPING,
            save_epochs=cfg.OUTPUT.SAVE_FREQ,
            save_steps=cfg.OUTPUT.SAVE_STEP,
            margin=cfg.LOSS.MARGIN,
            collapse_steps=cfg.LOSS.COLLAPSE_STEPS,
            on_collapse=cfg.LOSS.ON_COLLAPSE,
        )


@dataclass
class Progress:
    """Where training stands; saved with every checkpoint, and all that a resume needs to find its place."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimizer steps since the start
    last_validation: int = 0  # step of the last validation
    best_score: float | None = None
    best_step: int = 0
    validations_without_gain: int = 0
    sum_epochs: int = 0  # epochs on the sum of negatives; the collapse guard may raise it
    stuck_since: int = -1
    collapse_reported: bool = False


class TrainingStoppedError(Exception):
    """Training was asked to stop by a signal, and its state is saved."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class ValidationStoppedError(Exception):
    """A signal came while the dev split was measured."""


class TrainingFailedError(Exception):
    """Training cannot go on: the loss is not a number, or it collapsed and was told to stop there."""


class Trainer:
    """Train `model` with `loss`.

    `batches_of(epoch, start)` returns how many batches an epoch has, and those from `start` on as named
    arrays; `schedule` gives the learning rate of a step; `validate` returns named metrics; `save` writes
    the checkpoint called `last`, `best` or `epoch_N`. Randomness is a function of seed, step and process,
    so there is no generator state to save, and a resumed run repeats the undisturbed one bit for bit.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        loss: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Callable[[int], float],
        batches_of: Callable[[int, int], tuple[int, Iterable[dict[str, np.ndarray]]]],
        settings: TrainingSettings,
        log: RunLog,
        validate: Callable[[], dict[str, float]],
        save: Callable[[str], None],
        rank: int = 0,
        world_size: int = 1,
    ):
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.batches_of, self.settings, self.log = batches_of, settings, log
        self.validate, self.save = validate, save
        self.rank, self.world_size = rank, world_size
        self.progress = Progress(sum_epochs=getattr(loss, "sum_epochs", 0))
        self.guard = CollapseGuard(settings.margin, settings.collapse_steps)
        self.average = _copies(model) if settings.ema_decay else None
        self.scaler = paddle.amp.GradScaler(enable=settings.amp == "float16")
        self.stop_signal = 0
        self.total_steps = 0
        self._parameters = [*model.parameters(), *loss.parameters()]
        self._restart_clock()

    def fit(self) -> None:
        """Train from where `progress` stands to the last epoch, or to early stopping.

        Raises TrainingStoppedError after a signal (the state is saved) and TrainingFailedError.
        """
        steps_per_epoch = -(-self.batches_of(0, 0)[0] // self.settings.accumulation_steps)
        self.total_steps = steps_per_epoch * self.settings.epochs
        self.log.start(self.total_steps, self.progress.step)
        self._restart_clock()
        if self.progress.step:
            self._validate_if_due()  # a run that was stopped in mid-validation validates first
        while self.progress.epoch < self.settings.epochs and not self._stopped_early():
            self._train_epoch(self.progress.epoch)

    def _train_epoch(self, epoch: int) -> None:
        count, batches = self.batches_of(epoch, self.progress.batch)
        self.model.train()
        for group in _grouped(batches, self.settings.accumulation_steps):
            losses = self._train_step(group, epoch)
            progress = self.progress
            progress.batch += len(group)
            progress.step += 1
            if progress.batch >= count:
                progress.epoch, progress.batch = epoch + 1, 0
            self._window.append(losses)
            self._after_step()
            if self._stopped_early():
                return

    def _train_step(self, group: list[dict[str, np.ndarray]], epoch: int) -> dict[str, float]:
        """Take one optimizer step on the batches of `group`; return the averaged loss terms."""
        step = self.progress.step
        paddle.seed(_step_seed(self.settings.seed, step, self.rank))
        self.loss.sum_epochs = self.progress.sum_epochs
        sums: dict[str, float] = {}
        for arrays in group:
            batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
            with paddle.amp.auto_cast(enable=self.settings.amp != "off", dtype=self._amp_dtype()):
                outputs = self.model(batch)
                terms = self.loss(outputs, batch, epoch)
            total = sum(terms.values()) / len(group)
            self.scaler.scale(total).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(group)
        pairs = sum(len(arrays["image_id"]) for arrays in group)
        self._pairs_since_log += pairs * self.world_size
        names = list(sums)
        values = average_gradients(self._parameters, [*sums.values(), float(self.stop_signal)])
        losses = dict(zip(names, values[:-1], strict=True))
        if values[-1] and not self.stop_signal:
            self.stop_signal = signal.SIGTERM  # another process was asked to stop: all stop at one step
        total = sum(losses.values())
        if not is_broken(total):
            self.optimizer.set_lr(self.schedule(step))
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._update_average(step)
        elif self.settings.on_collapse != "fallback":
            raise TrainingFailedError(broken_message(step, total))
        else:
            self.log.remark("skipped", step, f"step {step} skipped: its loss is {total}")
        self.optimizer.clear_grad()
        if (step + 1) % self.settings.print_step == 0:
            self._watch_for_collapse(total, pairs // len(group), outputs)
        return losses

    def _amp_dtype(self) -> str:
        return "bfloat16" if self.settings.amp == "off" else self.settings.amp

    def _update_average(self, step: int) -> None:
        if self.average is None:
            return
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))  # early weights are soon forgotten
        with paddle.no_grad():
            for name, tensor in layer_tensors(self.model).items():
                average = self.average[name]
                average.set_value(
                    average + (tensor - average) * (1 - decay) if tensor.is_floating_point() else tensor
                )

    def _watch_for_collapse(self, loss: float, pairs: int, outputs: dict[str, paddle.Tensor]) -> None:
        settings, progress = self.settings, self.progress
        hardest = getattr(self.loss, "hard_negative", False) and progress.epoch >= progress.sum_epochs
        if not (settings.collapse_steps and hardest):
            return
        spread = float(paddle.std(outputs["scores"]))
        self.guard.stuck_since, self.guard.reported = progress.stuck_since, progress.collapse_reported
        collapsed = self.guard.observe(progress.step, loss, pairs, spread)
        progress.stuck_since, progress.collapse_reported = self.guard.stuck_since, self.guard.reported
        # Scores differ between processes; what process 0 sees decides for all.
        if not broadcast_values([float(collapsed)])[0]:
            return
        line = self.guard.message(progress.step, pairs)
        if settings.on_collapse == "stop":
            raise TrainingFailedError(line)
        self.log.remark("collapse", progress.step, f"warning: {line}")
        if settings.on_collapse == "fallback":
            progress.sum_epochs = progress.epoch + 1
            progress.stuck_since, progress.collapse_reported = -1, False
            self.log.say(f"training on the sum of negatives until the end of epoch {progress.sum_epochs}")

    def _after_step(self) -> None:
        progress, settings = self.progress, self.settings
        self.log.advance()
        if progress.step % settings.print_step == 0:
            self._log_step()
        if self.stop_signal:
            self._stop()
        self._validate_if_due()
        epoch_ended = progress.batch == 0
        if epoch_ended and settings.save_epochs and progress.epoch % settings.save_epochs == 0:
            self._pause(lambda: self.save(f"epoch_{progress.epoch}"))
        if epoch_ended or (settings.save_steps and progress.step % settings.save_steps == 0):
            self._pause(lambda: self.save("last"))

    def _log_step(self) -> None:
        """Log the mean of each loss since the last logged step."""
        elapsed, count = time.perf_counter() - self._clock, len(self._window)
        terms = {name: sum(losses[name] for losses in self._window) / count for name in self._window[0]}
        record = {
            "step": self.progress.step,
            "epoch": self.progress.step / self.total_steps * self.settings.epochs,
            "loss": sum(terms.values()),
            **(terms if len(terms) > 1 else {}),
            "lr": self.schedule(self.progress.step - 1),
            "samples_per_second": self._pairs_since_log / elapsed,
        }
        self.log.step(record, (self.total_steps - self.progress.step) * elapsed / count)
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._pairs_since_log = time.perf_counter(), 0
        self._window: list[dict[str, float]] = []

    def _pause(self, work: Callable[[], None]) -> None:
        """Do `work` off the clock that samples/s is measured with."""
        started = time.perf_counter()
        work()
        self._clock += time.perf_counter() - started

    def _validation_due(self) -> bool:
        progress, settings = self.progress, self.settings
        by_epoch = settings.eval_epochs and progress.batch == 0 and progress.epoch % settings.eval_epochs == 0
        by_step = settings.eval_steps and progress.step % settings.eval_steps == 0
        at_end = progress.batch == 0 and progress.epoch == self.settings.epochs
        return bool(by_epoch or by_step or at_end) and progress.last_validation != progress.step

    def _validate_if_due(self) -> None:
        if self._validation_due():
            self._pause(self._validate)

    def _validate(self) -> None:
        """Measure the dev split and keep the best checkpoint; other processes wait for process 0's word."""
        progress = self.progress
        if self.rank == 0:
            try:
                metrics = self._measure()
            except ValidationStoppedError:
                self._stop()
        progress.last_validation = progress.step
        if self.rank == 0:
            self._judge(metrics)
        values = broadcast_values(
            [progress.best_score or 0.0, progress.best_step, progress.validations_without_gain]
        )
        progress.best_score, progress.best_step, progress.validations_without_gain = (
            values[0],
            *map(int, values[1:]),
        )
        if progress.batch:  # the end of an epoch saves by itself
            self.save("last")

    def _judge(self, metrics: dict[str, float]) -> None:
        progress, score = self.progress, metrics[self.settings.best_metric]
        better = progress.best_score is None or score > progress.best_score
        if better:
            progress.best_score, progress.best_step, progress.validations_without_gain = (
                score,
                progress.step,
                0,
            )
        else:
            progress.validations_without_gain += 1
        record = {"step": progress.step, **metrics, "best": better}
        self.log.validation(record, validation_line(progress, metrics, better))
        if better:
            self.save("best")

    def _measure(self) -> dict[str, float]:
        """Return the metrics of the averaged weights if there are any, else of the model's own."""
        trained = _copies(self.model) if self.average is not None else None
        if self.average is not None:
            _assign(self.model, self.average)
        try:
            return self.validate()
        finally:
            if trained is not None:
                _assign(self.model, trained)

    def check_signal(self) -> None:
        """Leave a validation early after a signal; a resume does it again."""
        if self.stop_signal:
            raise ValidationStoppedError

    def _stop(self) -> None:
        self.save("last")
        raise TrainingStoppedError(self.stop_signal)

    def _stopped_early(self) -> bool:
        patience = self.settings.early_stopping
        return bool(patience) and self.progress.validations_without_gain >= patience

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
        """Return the tensors of the model, what else a resume needs, and the plain values for `state.json`.

        With weight averaging the model's tensors are the averaged ones, and `weights.*` the trained ones.
        """
        moments = optimizer_state(self.optimizer, named_parameters(self.model, self.loss))
        trainer = {f"optimizer.{name}": array for name, array in moments.items()}
        trainer |= {f"loss.{name}": array for name, array in layer_arrays(self.loss).items()}
        model = layer_arrays(self.model)
        if self.average is not None:
            trainer |= {f"weights.{name}": array for name, array in model.items()}
            model = {name: tensor.numpy() for name, tensor in self.average.items()}
        values = {
            "progress": asdict(self.progress),
            "scaler": self.scaler.state_dict() if self.settings.amp == "float16" else {},
        }
        return model, trainer, values

    def restore(self, model: dict[str, np.ndarray], trainer: dict[str, np.ndarray], values: dict) -> None:
        """Take up the state that `state()` returned, here or in another process."""
        weights = _under("weights.", trainer)
        if bool(weights) != (self.average is not None):
            raise UserError(
                "OPTIMIZATION.EMA_DECAY was switched on or off since the checkpoint; resume with the value "
                "it had"
            )
        check_arrays(self.model, model, "the checkpoint to resume from")
        assign_arrays(self.model, weights or model)
        if self.average is not None:
            self.average = {name: paddle.to_tensor(array) for name, array in model.items()}
        check_arrays(self.loss, _under("loss.", trainer), "the checkpoint to resume from (loss)")
        assign_arrays(self.loss, _under("loss.", trainer))
        try:
            moments = _under("optimizer.", trainer)
            restore_optimizer_state(self.optimizer, named_parameters(self.model, self.loss), moments)
        except ValueError as error:
            raise UserError(
                f"cannot resume: {error}; resume with the OPTIMIZATION.OPTIMIZER it was saved with"
            ) from error
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
        self.progress = Progress(**values["progress"])


def named_parameters(model: paddle.nn.Layer, loss: paddle.nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """Return what is trained: the model's parameters, and the loss's own (a temperature) under `loss.`."""
    return [*model.named_parameters(), *((f"loss.{name}", value) for name, value in loss.named_parameters())]


def validation_line(progress: Progress, metrics: dict[str, float], better: bool) -> str:
    """Return the terminal's line for one validation."""
    recalls = "  ".join(
        f"{direction} " + "/".join(f"{metrics[f'{key}_r{k}']:.1f}" for k in (1, 5, 10))
        for direction, key in (("image-to-text", "i2t"), ("text-to-image", "t2i"))
    )
    best = "  (best)" if better else f"  (best {progress.best_score:.1f} at step {progress.best_step})"
    return f"validation at step {progress.step}: R@1/5/10 {recalls}  rsum {metrics['rsum']:.1f}{best}"


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _copies(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in layer_tensors(layer).items()}


def _assign(layer: paddle.nn.Layer, values: dict[str, paddle.Tensor]) -> None:
    for name, tensor in layer_tensors(layer).items():
        tensor.set_value(values[name])


def _grouped(batches: Iterable[dict], size: int) -> Iterator[list[dict]]:
    group: list[dict] = []
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
