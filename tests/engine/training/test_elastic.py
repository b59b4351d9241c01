"""A run resumed with other batches or processes: what is left of the epoch, and of the schedule."""

import numpy as np
import pytest

from config.errors import UserError
from datasets.samplers.batches import BatchSampler
from datasets.samplers.classes import ClassSampler
from engine.training.training_state import restore_training

SAMPLES = 26


class Job:
    """One process's view of a job, which notes the samples of all processes' batches."""

    def __init__(self, make_run, batch_size: int, processes: int, epochs: int = 3, samples: int = SAMPLES):
        lengths = np.random.default_rng(0).integers(1, 5, samples)
        self.samplers = [
            BatchSampler(lengths, batch_size, "bucket", 7, rank, processes) for rank in range(processes)
        ]
        self.seen: list[tuple[int, list[int]]] = []
        self.rates: list[float] = []
        self.run = make_run(batches_of=self.batches_of, epochs=epochs, batch_size=batch_size)
        trainer = self.run.trainer
        trainer.world_size, trainer.samples = processes, samples
        trainer.schedule = lambda step: self.rates.append(step / trainer.steps_per_epoch) or 0.1

    def batches_of(self, epoch, start):
        whole = list(zip(*(sampler.batches(epoch) for sampler in self.samplers), strict=True))

        def batches():
            for shares in whole[start:]:
                chosen = np.concatenate(shares)
                self.seen.append((epoch, chosen.tolist()))
                x = np.ones((len(chosen), 3), np.float32)
                yield {"x": x, "y": x[:, :1], "image_id": chosen}

        return len(whole), batches()

    def resume_within_epoch(self, epoch, finished_parts):
        for sampler in self.samplers:
            sampler.resume_within_epoch(epoch, finished_parts)

    def resume(self, state) -> bool:
        return restore_training(self.run.trainer, *state, self.resume_within_epoch)

    def fit_until(self, step: int):
        """Train so many steps; return the state there."""
        trainer = self.run.trainer
        save = trainer._save

        def save_and_stop(names):
            save(names)
            if trainer.position.step == step:
                trainer._writer.finish()
                raise KeyboardInterrupt

        trainer._save = save_and_stop
        self.run.trainer.settings.__dict__["save_steps"] = 1
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
        return self.run.states["last"]


def of_epoch(epoch: int, *jobs: Job) -> list[int]:
    return sorted(sample for job in jobs for number, batch in job.seen if number == epoch for sample in batch)


@pytest.mark.parametrize("sizes", [[(4, 1), (3, 2)], [(4, 1), (5, 2), (2, 3)], [(2, 2), (12, 1)]])
def test_no_sample_is_missed_or_seen_twice_in_an_epoch(make_run, sizes):
    jobs, state = [], None
    for number, (batch_size, processes) in enumerate(sizes):
        jobs.append(Job(make_run, batch_size, processes))
        if state:
            assert jobs[-1].resume(state)
        if number < len(sizes) - 1:
            state = jobs[-1].fit_until(2 * (number + 1))
    jobs[-1].run.trainer.fit()
    for epoch in range(3):
        assert of_epoch(epoch, *jobs) == list(range(SAMPLES))
    assert jobs[-1].run.trainer.position.epoch == 3


def test_the_schedule_goes_on_with_the_epochs_and_ends_with_them(make_run):
    before = Job(make_run, 4, 1)
    after = Job(make_run, 13, 1)  # two steps an epoch
    after.resume(before.fit_until(10))  # epoch 1, 3 of 7 batches done: 14 samples are left
    trainer = after.run.trainer
    trainer.fit()
    assert [round(rate, 3) for rate in dict.fromkeys(after.rates)] == [1.0, 1.5, 2.0, 2.5]
    assert trainer.position.step == trainer.total_steps == 10 + 2 + 2
    assert [record["epoch"] for record in after.run.records()][-1] == 3.0


def test_as_large_a_batch_of_more_processes_is_the_same_batch(make_run):
    one, alone = Job(make_run, 6, 1), Job(make_run, 6, 1)
    alone.run.trainer.fit()
    two = Job(make_run, 3, 2)
    assert not two.resume(one.fit_until(2))
    two.run.trainer.fit()
    found = [(epoch, sorted(batch)) for epoch, batch in one.seen[:2] + two.seen]
    assert found == [(epoch, sorted(batch)) for epoch, batch in alone.seen]


def test_what_is_too_little_for_a_batch_ends_the_epoch(make_run):
    before, after = Job(make_run, 8, 1, samples=18), Job(make_run, 2, 3, samples=18)
    after.resume(before.fit_until(2))  # two samples are left for three processes
    after.run.trainer.fit()
    assert of_epoch(0, after) == []
    assert of_epoch(1, after) == list(range(18))
    assert [record["step"] for record in after.run.records("validation")][0] == 2


def test_other_data_is_refused(make_run):
    state = Job(make_run, 4, 1).fit_until(2)
    with pytest.raises(
        UserError, match="an epoch was 7 batches in 7 steps, now it is 10 batches .* same data"
    ):
        Job(make_run, 4, 1, samples=40).resume(state)


def test_batches_by_class_go_on_at_the_end_of_an_epoch_alone():
    with pytest.raises(
        UserError, match="in the midst of epoch 2 .* from a checkpoint at the end of an epoch"
    ):
        ClassSampler(np.repeat([0, 1], 4), 4, 2, 0).resume_within_epoch(2, [])
