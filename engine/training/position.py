"""Where training stands."""

from dataclasses import dataclass, field


@dataclass
class TrainingPosition:
    """Where training stands; every checkpoint holds it, and a resume needs nothing else to find its place."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimizer steps since the start
    last_validation: int = 0  # step of the last validation
    best_score: float | None = None
    best_step: int = 0
    validations_without_gain: int = 0
    interrupted: bool = False  # stopped by a signal before what was due at this step
    # The parts of this epoch that were finished before it was resumed with other batches or processes: size
    # of a global batch, processes, batches done. `batch` counts the batches after them.
    finished_parts: list[list[int]] = field(default_factory=list)
    schedule_shift: int = 0  # by so much the step of the schedule is ahead of `step`, after such a resume

    @property
    def epoch_ended(self) -> bool:
        """Tell whether no batch of `epoch` is done."""
        return self.batch == 0 and not self.finished_parts

    def advance(self, batches: int, batches_of_epoch: int) -> None:
        """Go on by one step of so many `batches`, and to the next epoch behind the last of this one."""
        self.step += 1
        self.batch += batches
        if self.batch == batches_of_epoch:
            self.epoch, self.batch, self.finished_parts = self.epoch + 1, 0, []

    def judge(self, score: float) -> bool:
        """Take the score of a validation at this step; return whether it is the best so far."""
        self.last_validation = self.step
        better = self.best_score is None or score > self.best_score
        if better:
            self.best_score, self.best_step, self.validations_without_gain = score, self.step, 0
        else:
            self.validations_without_gain += 1
        return better
