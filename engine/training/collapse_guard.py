"""Watches training on hardest negatives for collapse.

A ranking loss on hardest negatives alone has a bad plateau: all embeddings are alike, all scores are equal,
and each of the 2 x batch hinges equals the margin. Training may stay on this plateau for thousands of steps
or for ever (a known complaint about VSE++). The guard detects the plateau by the value of the loss and by the
standard deviation of the scores.
"""

import paddle
from yacs.config import CfgNode

from engine.parallel.processes import broadcast_values
from engine.runs.run_log import RunLog
from engine.training.outcomes import TrainingFailedError
from models.losses.ranking import HingeLoss

LOSS_TOLERANCE = 0.05
"""A loss within this fraction of 2 x batch x margin may be on the plateau."""
SPREAD_TOLERANCE = 0.25
"""Scores are alike when their standard deviation is below this fraction of the margin."""


class CollapseGuard:
    """A watcher that acts when `loss` has stayed at `2 x batch x margin`, with all scores alike, too long.

    The guard looks at every `every`-th step, and acts after `patience` steps on the plateau. `on_collapse`
    says how: "warn" logs a line, once for each stay on the plateau; "stop" ends training; "fallback" trains
    on the sum of negatives for the rest of the epoch and one more.
    """

    name = "collapse_guard"

    def __init__(self, loss: HingeLoss, patience: int, on_collapse: str, log: RunLog, every: int = 1) -> None:
        self.loss, self.patience, self.on_collapse = loss, patience, on_collapse
        self.log, self.every = log, every
        self.stuck_since = -1  # first step of the current stay on the plateau, or -1
        self.reported = False  # whether the current stay was logged
        self.sum_until = 0  # epoch before which a fallback trains on the sum of negatives

    @classmethod
    def from_config(cls, cfg: CfgNode, loss: paddle.nn.Layer, log: RunLog) -> list["CollapseGuard"]:
        """Return a guard for the hinge loss on hardest negatives in `loss`; an empty list for others."""
        hinges = [layer for layer in loss.sublayers(include_self=True) if isinstance(layer, HingeLoss)]
        return [
            cls(hinge, cfg.LOSS.COLLAPSE_STEPS, cfg.LOSS.ON_COLLAPSE, log, cfg.MONITOR.PRINT_STEP)
            for hinge in hinges
            if hinge.hard_negative and cfg.LOSS.COLLAPSE_STEPS
        ]

    def after_step(
        self, step: int, epoch: int, losses: dict[str, float], outputs: dict[str, paddle.Tensor]
    ) -> None:
        """Look at a step; raise TrainingFailedError on a collapse, if `on_collapse` is "stop"."""
        if step % self.every or not self.loss.uses_hard_negatives(epoch):
            return
        scores = outputs["scores"]  # [N,N]
        collapsed = self.observe(step, losses["hinge"], len(scores), float(paddle.std(scores)))
        # Scores differ between processes, so process 0 decides for all.
        if broadcast_values([float(collapsed)])[0]:
            self._act(step, epoch, self.message(step, len(scores)))

    def observe(self, step: int, loss: float, pairs: int, spread: float) -> bool:
        """Return True when the stay on the plateau has lasted `patience` steps, once for each stay.

        `loss` is that of a batch of `pairs` pairs; `spread` is the standard deviation of its scores.
        """
        margin = self.loss.margin
        plateau = 2 * pairs * margin
        alike = spread < SPREAD_TOLERANCE * margin
        if abs(loss - plateau) > LOSS_TOLERANCE * plateau or not alike:
            self.stuck_since, self.reported = -1, False
            return False
        if self.stuck_since < 0:
            self.stuck_since = step
        if self.reported or step - self.stuck_since < self.patience:
            return False
        self.reported = True
        return True

    def message(self, step: int, pairs: int) -> str:
        """Return the line that says what happened and what to change."""
        return (
            f"collapse: the loss has sat at 2 x batch x margin = {2 * pairs * self.loss.margin:.4g} with all "
            f"embeddings alike from step {self.stuck_since} to {step}; train on the sum of negatives first "
            f"(LOSS.SUM_EPOCHS=1), lower OPTIMIZATION.LR, or use LOSS.NAME=contrastive"
        )

    def _act(self, step: int, epoch: int, line: str) -> None:
        if self.on_collapse == "stop":
            raise TrainingFailedError(line)
        self.log.event("collapse", step, f"warning: {line}")
        if self.on_collapse == "fallback":
            self._train_on_the_sum(until=epoch + 2)  # the rest of this epoch, and one more
            self.stuck_since, self.reported = -1, False
            self.log.print_line(f"training on the sum of negatives until the end of epoch {self.sum_until}")

    def _train_on_the_sum(self, until: int) -> None:
        self.sum_until = until
        self.loss.sum_epochs = max(self.loss.sum_epochs, until)

    def state(self) -> dict[str, int | bool]:
        """Return the values that a checkpoint keeps."""
        return {"sum_until": self.sum_until, "stuck_since": self.stuck_since, "reported": self.reported}

    def restore(self, state: dict[str, int | bool]) -> None:
        """Restore the values that `state()` returned; raise KeyError for a missing one."""
        self.stuck_since, self.reported = state["stuck_since"], state["reported"]
        self._train_on_the_sum(state["sum_until"])
