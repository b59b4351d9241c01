"""When a process of a job dies, the others hear which; one that leaves in peace is not missed."""

import contextlib
import queue
import socket

import pytest

from engine.parallel.lifeline import Lifeline


def die(end: Lifeline) -> None:
    """Close its lines, as the system does for a process that has ended."""
    end._left = True  # its thread would have ended as well
    for line in [*end._lines, end._server] if end._rank == 0 else [end._line]:
        with contextlib.suppress(OSError):  # the other end was first
            line.shutdown(socket.SHUT_RDWR)
        line.close()


@pytest.fixture
def job():
    """Return the ends of a job of three processes, and what each hears."""
    heard = [queue.Queue() for _ in range(3)]
    first = Lifeline(0, 3, heard[0].put)
    where = {"host": "localhost", "port": first.port, "token": first.token}
    return [first, *(Lifeline(rank, 3, heard[rank].put, **where) for rank in (1, 2))], heard


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_all_others_hear_who_died(job, dead):
    ends, heard = job
    while len(ends[0]._lines) < 2:
        pass
    die(ends[dead])
    for rank in {0, 1, 2} - {dead}:
        assert heard[rank].get(timeout=20) == dead


def test_nobody_misses_those_who_left_in_peace(job):
    ends, heard = job
    while len(ends[0]._lines) < 2:
        pass
    for end in (ends[1], ends[0], ends[2]):
        end.leave()
    for end in ends[::-1]:
        die(end)
    for each in heard:
        with pytest.raises(queue.Empty):
            each.get(timeout=0.2)


def test_a_stranger_is_no_process_of_the_job():
    heard = queue.Queue()
    first = Lifeline(0, 2, heard.put)
    with socket.create_connection(("localhost", first.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
    second = Lifeline(1, 2, heard.put, "localhost", first.port, first.token)
    while not first._lines:
        pass
    die(second)
    assert heard.get(timeout=20) == 1
