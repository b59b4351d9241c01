"""The ways in which training ends, and the lines that report them."""

import math
import signal

from engine.training.position import TrainingPosition
from engine.training.settings import TrainingSettings

BROKEN_REMEDY = (
    "lower OPTIMIZATION.LR, lengthen OPTIMIZATION.WARMUP_STEPS or tighten OPTIMIZATION.CLIP_MAX_NORM; what "
    "was saved before is intact"
)


class TrainingStoppedError(Exception):
    """A signal stopped training after its state was saved."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class TrainingFailedError(Exception):
    """Training cannot go on: the loss or a weight is NaN or infinite, or it collapsed and is set to stop."""


def nothing_left(position: TrainingPosition, settings: TrainingSettings) -> str:
    """Return a line that says why training is over and how to go on; empty while steps remain."""
    if position.interrupted:
        return ""
    if position.epoch >= settings.epochs:
        return (
            f"all {settings.epochs} epochs are done; to go on, raise OPTIMIZATION.EPOCHS, as in --resume "
            f"OPTIMIZATION.EPOCHS={2 * settings.epochs}"
        )
    if settings.early_stopping and position.validations_without_gain >= settings.early_stopping:
        return (
            f"{position.validations_without_gain} validations brought no gain; to go on, raise "
            f"OPTIMIZATION.EARLY_STOPPING ({settings.early_stopping}), or set it to 0"
        )
    return ""


def is_broken(loss: float) -> bool:
    """Tell whether a loss is NaN or infinite."""
    return not math.isfinite(loss)


def broken_loss(step: int, loss: float) -> str:
    """Return the line for a loss that is NaN or infinite."""
    return f"the loss is {loss} at step {step}: {BROKEN_REMEDY}"


def broken_weights(step: int, name: str) -> str:
    """Return the line for a tensor of the model that holds NaN or infinity."""
    return f"the weights {name} hold NaN or infinity after step {step}: {BROKEN_REMEDY}"
