"""What happens around a service: it is killed, its disk is full, a Milvus is away, clients stall or leave.

`tests/faults/kill_service.py` kills fifty times.
"""

import contextlib
import resource
import shutil
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs requirements-service.txt")

from serving.app.client import Client, RefusedError
from tests.bundle_files import features_of, sentences_of
from tests.faults.kill_service import FIRST, KEY, kill_once, make
from tests.served import Served


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("service"))


@pytest.fixture
def served(made, tmp_path):
    """Return a service that may be written into."""
    shutil.copytree(made / "index", tmp_path / "index")
    service = Served(tmp_path, "--index", tmp_path / "index", "--key_file", made / "key.txt")
    yield service
    service.end()


@pytest.fixture(scope="module")
def served_once(made, tmp_path_factory):
    """Return a service of the index as it was made."""
    service = Served(tmp_path_factory.mktemp("once"), "--index", made / "index")
    yield service
    service.end()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_service_that_is_killed_loses_nothing_that_it_acknowledged(made, tmp_path, seed):
    kill_once(made, tmp_path / "killed", seed)


def test_a_full_disk_is_told_and_the_rest_is_served(served, made):
    client, features = Client(served.address, KEY, attempts=1), features_of(sentences_of(1))[0].tolist()
    client.put("before", features=features)
    before = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (1024, before[1]))
    with pytest.raises(RefusedError) as refused:
        client.put("after", features=features)
    assert refused.value.status == 503 and refused.value.code == "unavailable"
    assert "intact" in str(refused.value) and str(made) not in str(refused.value)
    assert client.item("before")["id"] == "before" and client.search("red dog")["hits"]
    with pytest.raises(RefusedError):
        client.item("after")
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, before)
    client.put("after", features=features)  # there is space again
    assert client.info()["count"] == FIRST + 2


def test_clients_that_stall_or_leave_keep_nobody_waiting(served):
    host, port = served.address.removeprefix("http://").split(":")
    client = Client(served.address, KEY)
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # half a request each, and then nothing
            stalled = stack.enter_context(socket.create_connection((host, int(port))))
            stalled.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{")
        for _ in range(40):  # a whole one each, and they are gone before the answer
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(b"GET /v1/search?q=red+dog HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all(client.search("red dog", k=1)["hits"] for _ in range(10))
    ends = time.monotonic() + 30
    while waiting(served) and time.monotonic() < ends:
        time.sleep(0.1)
    assert waiting(served) == 0 and client.search("red dog")["hits"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: many\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 9\r\n\r\n{}}",
        b"Content-Length: 99999999999999999999\r\n\r\n{",
        b"Content-Length: 999999999999\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"\x00\xff: broken\r\n\r\n",
    ],
)
def test_wrong_lengths_and_heads_are_refused(served_once, head):
    host, port = served_once.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        with contextlib.suppress(ConnectionError):  # refused before the whole head was sent
            client.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\n" + head)
        with contextlib.suppress(ConnectionError):
            assert client.recv(12)[9:10] == b"4"
    assert Client(served_once.address).search("red dog", k=1)["hits"]


def test_a_head_that_does_not_end_is_refused_after_64_kilobytes(served_once):
    host, port = served_once.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"GET /v1/search?q=red HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * (65 << 10))
        assert b"400 Bad Request" in client.recv(1000)
    assert Client(served_once.address).search("red dog", k=1)["hits"]


def waiting(service: Served) -> float:
    """Return how many queries wait, from what the service counts."""
    text = Client(service.address)._call("GET", "/metrics").decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("retrieval_queue_")))
