"""Threads that help are bound on two cores, and nowhere else."""

import os
import threading

import pytest

from config.machine.cores import bind_helper, helpers_core


@pytest.mark.parametrize(
    ("cores", "expected"), [({0}, None), ({0, 1}, 1), ({3, 6}, 6), ({0, 1, 2}, None), (set(range(64)), None)]
)
def test_of_two_cores_helpers_have_the_second(monkeypatch, cores, expected):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, to: bound.append((thread, to)))
    assert helpers_core() == expected
    bind_helper()
    assert bound == ([] if expected is None else [(0, {expected})])


def test_the_thread_that_is_bound_is_the_calling_one_alone():
    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=bind_helper)
    thread.start()
    thread.join()
    assert os.sched_getaffinity(0) == before
