"""Threads change when a batch is made, never which batch comes."""

import threading
import time

import pytest

from datasets.prefetch import prefetched

WORKERS = [0, 1, 3]


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_come_in_order_whoever_is_ready_first(workers):
    def slow_when_even(item):
        time.sleep(0.002 * (item % 2 == 0))
        return item * item

    assert list(prefetched(slow_when_even, range(30), workers)) == [item * item for item in range(30)]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_start_skips_batches_without_making_them(workers):
    made = []
    assert list(prefetched(lambda item: made.append(item) or item, range(10), workers, start=7)) == [
        7,
        8,
        9,
    ]
    assert sorted(made) == [7, 8, 9]


@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_arrives_at_its_batch(workers):
    def fail_at_three(item):
        if item == 3:
            raise KeyError("row 3")
        return item

    received = []
    with pytest.raises(KeyError, match="row 3"):
        for batch in prefetched(fail_at_three, range(10), workers):
            received.append(batch)
    assert received == [0, 1, 2]
    assert not loader_threads()


def test_few_batches_are_made_ahead():
    made = []
    batches = prefetched(lambda item: made.append(item) or item, range(1000), 2)
    next(batches)
    time.sleep(0.05)
    assert len(made) <= 6
    batches.close()


def test_closing_ends_the_threads():
    batches = prefetched(lambda item: item, range(1000), 2)
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


@pytest.mark.parametrize("workers", WORKERS)
def test_no_batches_are_no_error(workers):
    assert list(prefetched(lambda item: item, [], workers)) == []


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
