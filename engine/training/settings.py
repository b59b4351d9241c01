"""The settings of the training loop."""

from dataclasses import dataclass

from yacs.config import CfgNode


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of the loop; `config/default.py` explains each at its key."""

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
    skip_broken: bool = False  # skip a step whose loss is NaN or infinite, instead of failing

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TrainingSettings":
        """Return the settings of a configuration."""
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
            skip_broken=cfg.LOSS.ON_COLLAPSE == "fallback",
        )
