"""Processes of one machine average arrays in memory that they share."""

import errno
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest

from engine.parallel import shared_memory
from tests.closeness import assert_close


@pytest.mark.parametrize("processes", [2, 3])
def test_each_process_has_the_means_of_all_call_after_call(monkeypatch, processes):
    monkeypatch.setattr(shared_memory.dist, "barrier", threading.Barrier(processes).wait)
    shapes = (5, 7), (1,), (40, 3)
    segments = [mmap.mmap(-1, 4096) for _ in range(processes)]
    random = np.random.default_rng(0)
    calls = [
        [[random.standard_normal(shape, np.float32) for shape in shapes] for _ in range(processes)]
        for _ in range(3)
    ]

    def process(rank: int) -> list[list[np.ndarray]]:
        memory = shared_memory._SharedMemory(segments, rank, (35, 1, 120))
        found = []
        for call in calls:
            tensors = [paddle.to_tensor(array) for array in call[rank]]
            memory.take_means(tensors)
            found.append([tensor.numpy() for tensor in tensors])
        return found

    with ThreadPoolExecutor(processes) as pool:
        of_all = list(pool.map(process, range(processes)))
    for found in of_all:
        for means, call, of_first in zip(found, calls, of_all[0], strict=True):
            for number, mean in enumerate(means):
                expected = sum(arrays[number].astype(float) for arrays in call) / processes
                size = sum(np.abs(arrays[number]) for arrays in call) / processes
                assert_close(mean, expected, processes + 1, size)
                np.testing.assert_array_equal(mean, of_first[number])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has such memory")
def test_only_the_segment_that_was_told_of_is_taken():
    descriptor = shared_memory._make(128, 7)
    mine = os.getpid(), descriptor
    assert shared_memory._open(*mine, 7, 128) is not None
    assert shared_memory._open(*mine, 8, 128) is None, "another job's, on another machine"
    assert shared_memory._open(*mine, 7, 256) is None
    assert shared_memory._open(os.getpid(), -1, 7, 128) is None
    os.close(descriptor)
    assert shared_memory._open(*mine, 7, 128) is None


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has such memory")
def test_a_system_that_refuses_memory_leaves_the_means_to_paddle(monkeypatch):
    def refuse(name: str) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(os, "memfd_create", refuse)
    shared_memory._memory.cache_clear()
    tensor = paddle.ones([3])
    assert not shared_memory.take_means([tensor]) and tensor.tolist() == [1, 1, 1]
    shared_memory._memory.cache_clear()


def test_numbers_of_other_types_are_left_to_paddle():
    assert not shared_memory.take_means([paddle.ones([2], "float64")])
