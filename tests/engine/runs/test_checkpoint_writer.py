"""Checkpoints are written one at a time behind training's back, and what goes wrong there is told."""

import contextlib
import threading

import pytest

from config.errors import UserError
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.training.outcomes import TrainingFailedError, TrainingStoppedError


class Disk:
    """A write that takes until it is `free`, and fails if it is full."""

    def __init__(self, full: bool = False) -> None:
        self.free, self.full, self.began, self.done = threading.Event(), full, 0, 0

    def write(self) -> None:
        self.began += 1
        assert self.free.wait(30)
        if self.full:
            raise UserError("the disk is full")
        self.done += 1


def test_a_write_does_not_hold_up_who_starts_it():
    writer, disk = CheckpointWriter(), Disk()
    writer.start(disk.write)
    writer.check()
    assert disk.done == 0
    disk.free.set()
    writer.finish()
    assert disk.done == 1


def test_the_next_write_waits_for_the_last():
    writer, disk, order = CheckpointWriter(), Disk(), []
    writer.start(lambda: (disk.write(), order.append("first")))
    threading.Timer(0.05, disk.free.set).start()
    writer.start(lambda: order.append("second"))
    writer.finish()
    assert order == ["first", "second"]


@pytest.mark.parametrize("ask", ["check", "finish", "start"])
def test_what_a_write_raises_is_told_once_at_the_next_call(ask):
    writer, disk, calls = CheckpointWriter(), Disk(full=True), []
    disk.free.set()
    writer.start(disk.write)
    writer._thread.join()
    asked = {"check": writer.check, "finish": writer.finish, "start": lambda: writer.start(calls.append)}
    with pytest.raises(UserError, match="the disk is full"):
        asked[ask]()
    assert not calls, "nothing is written after what went wrong"
    writer.check()
    writer.finish()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_who_leaves_waits_for_the_write_but_for_an_interrupt(error):
    disk = Disk()
    if error is not KeyboardInterrupt:
        threading.Timer(0.05, disk.free.set).start()
    with contextlib.suppress(ValueError, KeyboardInterrupt), CheckpointWriter() as writer:
        writer.start(disk.write)
        if error:
            raise error
    assert disk.done == (error is not KeyboardInterrupt)
    disk.free.set()


def test_training_goes_on_while_a_checkpoint_is_written(make_run):
    disk = Disk()
    run = make_run(epochs=1, save_steps=2, write=disk.write)
    forward = run.trainer.model.forward

    def forward_and_free(batch):
        if run.trainer.position.step == 3:  # a step on, and the first checkpoint is still being written
            assert (disk.began, disk.done) == (1, 0)
            disk.free.set()
        return forward(batch)

    run.trainer.model.forward = forward_and_free
    run.trainer.fit()
    assert disk.began == disk.done == 3, "steps 2, 4 and 6; the end waits for the last"


def test_a_full_disk_ends_training_at_the_next_step(make_run):
    disk = Disk(full=True)
    run = make_run(epochs=9, save_steps=2, write=disk.write)
    forward = run.trainer.model.forward

    def forward_and_fail(batch):
        if run.trainer.position.step == 2:
            disk.free.set()
            run.trainer._writer._thread.join()
        return forward(batch)

    run.trainer.model.forward = forward_and_fail
    with pytest.raises(UserError, match="the disk is full"):
        run.trainer.fit()
    assert run.trainer.position.step == 3 and disk.began == 1


def test_a_full_disk_at_the_end_is_told(make_run):
    disk = Disk(full=True)
    disk.free.set()
    with pytest.raises(UserError, match="the disk is full"):
        make_run(epochs=1, write=disk.write).trainer.fit()


@pytest.mark.parametrize("full", [False, True])
def test_who_is_stopped_has_saved_or_says_that_it_has_not(make_run, full):
    disk = Disk(full)
    run = make_run(write=disk.write)
    run.trainer.stop_signal = 15
    threading.Timer(0.05, disk.free.set).start()
    with pytest.raises(UserError if full else TrainingStoppedError):
        run.trainer.fit()
    assert disk.began == 1 and disk.done == (not full)


def test_a_failure_waits_for_the_checkpoint_that_is_being_written(make_run):
    disk = Disk()
    run = make_run(save_steps=2, write=disk.write)
    run.trainer.schedule = lambda step: float("nan") if step >= 2 else 0.1
    threading.Timer(0.05, disk.free.set).start()
    with pytest.raises(TrainingFailedError):
        run.trainer.fit()
    assert disk.done == 1
