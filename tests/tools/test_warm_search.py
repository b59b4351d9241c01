"""A search that is handed to a process that serves an index, by its socket."""

import socket
import threading
from pathlib import Path

import pytest

from tools._warm_search import SOCKET, ask, is_own


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"2\0005\0007\000error" + "grün\0\n".encode(), (2, "error", "grün\0\n")),
        (b"0\0000\0009\000only a p", None),
        (b"0\0000\000", None),
        (b"", None),
    ],
)
def test_an_answer_counts_when_all_of_it_has_come(tmp_path, monkeypatch, answer, expected):
    asked = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            while part := connection.recv(3):
                asked.append(part)
            connection.sendall(answer)

    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen()
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        assert ask(".", "/a folder", ["--text", "ein grünes", "\udcff"]) == expected
        thread.join()
    assert b"".join(asked) == b"/a folder\0--text\0" + "ein grünes".encode() + b"\0\xff\0"


def test_without_a_process_that_serves_nothing_is_answered(tmp_path):
    assert ask(str(tmp_path), "/", []) is None
    Path(tmp_path, SOCKET).touch()
    assert ask(str(tmp_path), "/", []) is None


@pytest.mark.parametrize(
    ("word", "own"),
    [
        *[
            (word, True)
            for word in ("--help", "--hel", "--h", "-h", "-help", "--ser", "--q=x", "--b", "--reran")
        ],
        *[(word, False) for word in ("--", "-", "--index", "--text", "--top_k=3", "hel", "-1", "dog")],
    ],
)
def test_an_option_that_is_cut_short_is_the_same_option(word, own):
    assert is_own(word) == own
