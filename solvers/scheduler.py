"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no state."""

import math
from bisect import bisect_right
from collections.abc import Callable

from yacs.config import CfgNode


def step_factor(epoch: float, step_epochs: float, gamma: float) -> float:
    """Return `gamma` to the power of the number of drops so far, one every `step_epochs` epochs."""
    return gamma ** math.floor(epoch / step_epochs)


def multistep_factor(epoch: float, milestones: list[float], gamma: float) -> float:
    """Return `gamma` to the power of the number of `milestones` (epochs) that are reached."""
    return gamma ** bisect_right(sorted(milestones), epoch)


def polynomial_factor(progress: float, power: float, end_factor: float) -> float:
    """Return a factor that falls from 1 to `end_factor` as (1 - progress)^power; `progress` is in [0, 1]."""
    return end_factor + (1.0 - end_factor) * (1.0 - progress) ** power


def cosine_factor(progress: float, end_factor: float) -> float:
    """Return a factor that falls from 1 to `end_factor` along half a cosine; `progress` is in [0, 1].

    Source: arXiv 1608.03983, eq. 5, without restarts.
    """
    return end_factor + (1.0 - end_factor) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _shape(cfg: CfgNode) -> Callable[[float, float], float]:
    """Return the configured factor of the rate as a function of the epoch and of the progress."""
    options = cfg.OPTIMIZATION
    shapes: dict[str, Callable[[float, float], float]] = {
        "constant": lambda epoch, progress: 1.0,
        "step": lambda epoch, progress: step_factor(epoch, options.LR_STEP_EPOCHS, options.LR_GAMMA),
        "multistep": lambda epoch, progress: multistep_factor(epoch, options.LR_MILESTONES, options.LR_GAMMA),
        "linear": lambda epoch, progress: polynomial_factor(progress, 1.0, options.LR_END_FACTOR),
        "cosine": lambda epoch, progress: cosine_factor(progress, options.LR_END_FACTOR),
        "polynomial": lambda epoch, progress: polynomial_factor(
            progress, options.LR_POWER, options.LR_END_FACTOR
        ),
    }
    if options.LR_SCHEDULER not in shapes:
        raise ValueError(
            f"OPTIMIZATION.LR_SCHEDULER: expected one of {sorted(shapes)}, got {options.LR_SCHEDULER!r}"
        )
    return shapes[options.LR_SCHEDULER]


def build_schedule(cfg: CfgNode, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the 0-based optimizer step.

    Over W warm-up steps the rate is multiplied by (step + 1) / W, always step by step. The drops of step and
    multistep count from the start of training. Linear, cosine and polynomial run over the steps after the
    warm-up, and the last step has exactly LR_END_FACTOR. With LR_UPDATE "epoch" the factor is that of the
    epoch's start, so the last epoch stays above LR_END_FACTOR.
    """
    options = cfg.OPTIMIZATION
    total = options.EPOCHS * steps_per_epoch
    warmup = max(options.WARMUP_STEPS, round(options.WARMUP_EPOCHS * steps_per_epoch))
    shape = _shape(cfg)
    by_epoch = options.LR_UPDATE == "epoch"

    def rate(step: int) -> float:
        epoch = step // steps_per_epoch if by_epoch else step / steps_per_epoch
        done = epoch * steps_per_epoch if by_epoch else step + 1
        progress = min(max((done - warmup) / max(total - warmup, 1), 0.0), 1.0)
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        return options.LR * rise * shape(epoch, progress)

    return rate
