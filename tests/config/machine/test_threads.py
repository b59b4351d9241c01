"""Threads share work: every item once, nothing left behind when one fails, and items that share their own."""

import threading
import time

import pytest

from config.machine import threads
from config.machine.threads import for_each, is_helper


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda: 3)


def test_every_item_is_taken_once_by_all_threads():
    found, all_here = [], threading.Barrier(3)

    def work(item):
        if item < 3:
            all_here.wait(timeout=30)  # each of the first three is on a thread of its own
        found.append((item, threading.current_thread().name, is_helper()))

    for_each(work, range(100))
    assert sorted(item for item, _, _ in found) == list(range(100))
    assert len({name for _, name, _ in found}) == 3
    assert {helps for _, name, helps in found if name == threading.current_thread().name} == {False}


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_an_item_raises_reaches_the_caller_when_all_threads_are_done(bad):
    all_here, ended = threading.Barrier(3), []

    def work(item):
        all_here.wait(timeout=30)
        if item == bad:
            raise KeyError(item)
        ended.append(item)

    with pytest.raises(KeyError):
        for_each(work, range(3))
    assert sorted([*ended, bad]) == [0, 1, 2]


def test_after_an_item_that_fails_no_other_is_begun():
    both_here, none_left, begun = threading.Barrier(2), threading.Event(), []

    class Items:
        def __len__(self):
            return 2

        def __iter__(self):
            yield from range(100)
            none_left.set()

    def work(item):
        begun.append(item)
        both_here.wait(timeout=30)
        if item == 0:
            raise KeyError(item)
        none_left.wait(timeout=30)

    with pytest.raises(KeyError):
        for_each(work, Items())
    assert sorted(begun) == [0, 1]


def test_items_may_share_work_of_their_own_on_every_thread_at_once():
    all_here, found = threading.Barrier(3), []

    def work(item):
        all_here.wait(timeout=30)  # no thread is left to help
        for_each(lambda part: found.append((item, part)), range(4))

    for_each(work, range(3))
    assert sorted(found) == [(item, part) for item in range(3) for part in range(4)]


def test_nobody_waits_for_helpers_that_are_busy_elsewhere():
    begun, go_on = threading.Semaphore(0), threading.Event()

    def occupy(item):
        begun.release()
        go_on.wait(timeout=30)

    others = [threading.Thread(target=for_each, args=(occupy, range(3))) for _ in range(2)]
    for other in others:
        other.start()
    for _ in range(5):  # both, and the three helpers
        assert begun.acquire(timeout=30)
    try:
        found = []
        for_each(found.append, [1, 2, 3])
        assert found == [1, 2, 3]
    finally:
        go_on.set()
        for other in others:
            other.join()


def test_no_items_are_no_work():
    for_each(pytest.fail, [])


def test_what_the_work_holds_is_freed_by_the_calling_thread(monkeypatch):
    """Else Paddle may hang: see `_Shared.close`."""
    help_first, freed = threads._Shared.help, []

    def help_and_linger(shared: threads._Shared) -> None:
        help_first(shared)
        time.sleep(0.05)

    class Held:
        def __del__(self) -> None:
            freed.append(threading.get_ident())

    def share() -> None:
        held = Held()
        both = threading.Barrier(2)
        for_each(lambda item: (both.wait(10), held), range(2))

    monkeypatch.setattr(threads._Shared, "help", help_and_linger)
    for _ in range(3):
        share()
    assert freed == [threading.get_ident()] * 3
