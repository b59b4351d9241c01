"""Watch the loss of hardest-negative training for collapse, and any loss for NaN.

With the hardest negative alone, a ranking loss has a bad resting place: all embeddings alike, every score
equal, and each of the 2 x batch hinges at exactly the margin. Training may sit there for thousands of steps
or for ever (a known complaint about VSE++). The guard knows the place by its value and by the scores' spread.
"""

import math
from dataclasses import dataclass

LOSS_TOLERANCE = 0.05
"""How close to 2 x batch x margin counts as sitting there, as a fraction of it."""
SPREAD_TOLERANCE = 0.25
"""Scores whose standard deviation is below this fraction of the margin count as all alike."""
MAX_SKIPPED = 10
"""Steps in a row that may be skipped because their loss is not a number."""
BROKEN_REMEDY = (
    "lower OPTIMIZATION.LR, lengthen OPTIMIZATION.WARMUP_STEPS or tighten OPTIMIZATION.CLIP_MAX_NORM; what "
    "was saved before is intact"
)


@dataclass
class CollapseGuard:
    """Tell when the loss has sat at `2 x batch x margin`, with all scores alike, for `patience` steps.

    `stuck_since` is the first step of the present stay, or -1; `reported` is set when it was told.
    """

    margin: float
    patience: int
    stuck_since: int = -1
    reported: bool = False

    def observe(self, step: int, loss: float, pairs: int, spread: float) -> bool:
        """Take the loss of a batch of `pairs` and the standard deviation of its scores.

        Returns True once, when the stay has lasted `patience` steps.
        """
        plateau = 2 * pairs * self.margin
        alike = spread < SPREAD_TOLERANCE * self.margin
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
        """Return the line that says what happened and what helps."""
        return (
            f"collapse: the loss has sat at 2 x batch x margin = {2 * pairs * self.margin:.4g} with all "
            f"embeddings alike from step {self.stuck_since} to {step}; train on the sum of negatives first "
            f"(LOSS.SUM_EPOCHS=1), lower OPTIMIZATION.LR, or use LOSS.NAME=contrastive"
        )


def is_broken(loss: float) -> bool:
    """Tell whether a loss is NaN or infinite."""
    return not math.isfinite(loss)


def broken_loss(step: int, loss: float) -> str:
    """Return the line for a loss that is not a number."""
    return f"the loss is {loss} at step {step}: {BROKEN_REMEDY}"


def broken_weights(step: int, name: str) -> str:
    """Return the line for a tensor of the model that holds NaN or infinity."""
    return f"the weights {name} hold NaN or infinity after step {step}: {BROKEN_REMEDY}"
