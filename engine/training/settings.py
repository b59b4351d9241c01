"""What the training loop is told by the configuration."""

from dataclasses import dataclass

from yacs.config import CfgNode


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of the loop; the meaning of each stands at its key in `config/default.py`."""

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
    skip_broken: bool = False  # leave out steps whose loss is NaN or infinite, instead of ending training

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TrainingSettings":
        """Take the settings from their keys."""
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
