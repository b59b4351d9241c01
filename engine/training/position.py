"""The position of training: epoch, batch, step, and the best score so far."""

from dataclasses import dataclass, field

_ROUNDING = 1e-12  # of sums of a few recalls


@dataclass
class TrainingPosition:
    """Where training stands; every checkpoint holds it, and a resume goes on from it."""

    epoch: int = 0
    batch: int = 0  # finished batches of this epoch, after those of `finished_parts`
    step: int = 0  # optimizer steps since training began
    last_validation: int = 0  # step of the last validation
    best_score: float | None = None
    best_step: int = 0
    validations_without_gain: int = 0
    interrupted: bool = False  # stopped by a signal before the validation and saving of this step
    # The parts of this epoch that were finished before a resume with another batch size or other processes,
    # each as [size of a global batch, processes, finished batches].
    finished_parts: list[list[int]] = field(default_factory=list)
    schedule_shift: int = 0  # step of the schedule minus `step`, after such a resume

    @property
    def epoch_ended(self) -> bool:
        """Tell whether no batch of `epoch` is finished, so that the epoch before it has just ended."""
        return self.batch == 0 and not self.finished_parts

    def advance(self, batches: int, batches_of_epoch: int) -> None:
        """Count one step on so many `batches`; after the last batch of the epoch, move to the next epoch."""
        self.step += 1
        self.batch += batches
        if self.batch == batches_of_epoch:
            self.epoch, self.batch, self.finished_parts = self.epoch + 1, 0, []

    def judge(self, score: float) -> bool:
        """Record the score of a validation at this step; return whether it is the best so far."""
        self.last_validation = self.step
        # Sums of equal recalls may differ by rounding: then the first of them stays the best.
        better = self.best_score is None or score > self.best_score + _ROUNDING * abs(self.best_score)
        if better:
            self.best_score, self.best_step, self.validations_without_gain = score, self.step, 0
        else:
            self.validations_without_gain += 1
        return better
