"""What the training loop needs to know, where it stands, and the ways in which it ends early."""

import signal
from dataclasses import dataclass, field

from yacs.config import CfgNode


@dataclass(frozen=True)
class TrainingSettings:
    """What the loop needs to know; the meaning of each stands at its key in `config/default.py`.

    `sum_epochs`, `margin` and `collapse_steps` concern hardest-negative training alone; with any other
    loss `collapse_steps` is 0 and the guard rests.
    """

    epochs: int
    seed: int
    accumulation_steps: int = 1
    batch_size: int = 0  # of one process
    amp: str = "off"
    ema_decay: float = 0.0
    print_step: int = 10
    eval_epochs: int = 1
    eval_steps: int = 0
    best_metric: str = "rsum"
    early_stopping: int = 0
    save_epochs: int = 0
    save_steps: int = 0
    sum_epochs: int = 0
    margin: float = 0.0
    collapse_steps: int = 0
    on_collapse: str = "warn"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TrainingSettings":
        """Take the settings from their keys."""
        hardest = cfg.LOSS.NAME == "hinge" and cfg.LOSS.HARD_NEGATIVE
        return cls(
            epochs=cfg.OPTIMIZATION.EPOCHS,
            seed=cfg.MISC.SEED,
            accumulation_steps=cfg.OPTIMIZATION.GRADIENT_ACCUMULATION_STEPS,
            batch_size=cfg.OPTIMIZATION.BATCH_SIZE,
            amp=cfg.RUNTIME.AMP,
            ema_decay=cfg.OPTIMIZATION.EMA_DECAY,
            print_step=cfg.MONITOR.PRINT_STEP,
            eval_epochs=cfg.MONITOR.EVAL_FREQ,
            eval_steps=cfg.MONITOR.EVAL_STEP,
            best_metric=cfg.MONITOR.BEST_METRIC,
            early_stopping=cfg.OPTIMIZATION.EARLY_STOPPING,
            save_epochs=cfg.OUTPUT.SAVE_FREQ,
            save_steps=cfg.OUTPUT.SAVE_STEP,
            sum_epochs=cfg.LOSS.SUM_EPOCHS,
            margin=cfg.LOSS.MARGIN,
            collapse_steps=cfg.LOSS.COLLAPSE_STEPS if hardest else 0,
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
    sum_until: int = 0  # epochs on the sum of negatives that the collapse guard asked for
    stuck_since: int = -1
    collapse_reported: bool = False
    interrupted: bool = False  # stopped by a signal before what was due at this step
    # How this epoch was cut before, where it was resumed with other batches or processes: size of a global
    # batch, processes, batches done. `batch` counts those after it.
    finished_parts: list[list[int]] = field(default_factory=list)
    schedule_shift: int = 0  # by so much the step of the schedule is ahead of `step`, after such a resume

    @property
    def epoch_ended(self) -> bool:
        """Tell whether no batch of `epoch` is done."""
        return self.batch == 0 and not self.finished_parts


def nothing_left(progress: Progress, settings: TrainingSettings) -> str:
    """Return why training is over and how to go on, in one line; empty when something is left to do."""
    if progress.interrupted:
        return ""
    if progress.epoch >= settings.epochs:
        return (
            f"all {settings.epochs} epochs are done; to go on, raise OPTIMIZATION.EPOCHS, as in --resume "
            f"OPTIMIZATION.EPOCHS={2 * settings.epochs}"
        )
    if settings.early_stopping and progress.validations_without_gain >= settings.early_stopping:
        return (
            f"{progress.validations_without_gain} validations brought no gain; to go on, raise "
            f"OPTIMIZATION.EARLY_STOPPING ({settings.early_stopping}), or set it to 0"
        )
    return ""


class TrainingStoppedError(Exception):
    """Training was asked to stop by a signal, and its state is saved."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class TrainingFailedError(Exception):
    """Training cannot go on: loss or weights are not numbers, or it collapsed and was told to stop there."""
