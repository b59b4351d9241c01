"""A line from each process of a job to process 0: when one dies, all others hear of it at once.

The launcher watches the processes of its own machine alone, and a process that waits for a dead one's message
on another machine would wait for half an hour. Nothing travels on these lines while all is well: the system
itself closes the line of a process that ends, however it ends.
"""

import contextlib
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from engine.parallel.processes import broadcast_values, process_number, start_process_group, world_size

_HELLO = struct.Struct("!QI")  # the job's token, the rank
_LOST = struct.Struct("!I")  # the rank that has died
_BYE = 0xFFFFFFFF  # in the place of a rank: the sender leaves in peace
_CONNECT_SECONDS = 60.0
_GRACE_SECONDS = 15.0  # the launcher of the dead process's machine ends the others there sooner


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Connect the processes of a launched job, and let none outlive another that dies by more than a minute.

    Leaving by an exception counts as death: the others may be waiting.
    """
    if world_size() == 1:
        yield
        return
    start_process_group()
    line = Lifeline(0, world_size(), _leave_soon) if process_number() == 0 else None
    port, token = map(int, broadcast_values([line.port, line.token] if line else [0, 0]))
    if line is None:
        host = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0].rsplit(":", 1)[0]
        line = Lifeline(process_number(), world_size(), _leave_soon, host, port, token)
    yield
    line.leave()


def _leave_soon(lost: int) -> None:
    print(
        f"error: process {lost} of {world_size()} has died; its output is in the log folder of its launcher. "
        "What was saved is intact: training goes on with --resume, other work with the same command",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


class Lifeline:
    """One process's end; `on_loss` is called once, in a thread, with the rank of the process that died.

    Process 0 makes the line first; its `port` and `token` tell the others, on other machines too, where to
    go: `host` is its address.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        on_loss: Callable[[int], None],
        host: str = "",
        port: int = 0,
        token: int = 0,
    ) -> None:
        self._rank, self._others, self._on_loss = rank, world_size - 1, on_loss
        self._left = False
        if rank == 0:
            self._server = socket.create_server(("", 0), backlog=world_size)
            self.port, self.token = self._server.getsockname()[1], secrets.randbits(48)
            self._lines: dict[socket.socket, int] = {}
            work = self._watch_all
        else:
            self._line = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
            self._line.settimeout(None)
            self._line.sendall(_HELLO.pack(token, rank))
            work = self._watch_first
        threading.Thread(target=work, name="lifeline", daemon=True).start()

    def leave(self) -> None:
        """Let go in peace: the work is done."""
        self._left = True
        for line in [*self._lines] if self._rank == 0 else [self._line]:
            _send(line, _BYE)

    def _watch_all(self) -> None:
        """In process 0: wait for a line to close, and tell all."""
        while len(self._lines) < self._others:
            line, _ = self._server.accept()
            token, rank = _HELLO.unpack(_receive(line, _HELLO.size) or _HELLO.pack(0, 0))
            if token == self.token:  # else a stranger
                self._lines[line] = rank
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    if _receive(key.fileobj, _LOST.size) is None and not self._left:
                        self._tell(self._lines[key.fileobj])
                        return

    def _tell(self, lost: int) -> None:
        for line in self._lines:
            _send(line, lost)
        self._on_loss(lost)

    def _watch_first(self) -> None:
        """Elsewhere: wait for process 0's word, or its end."""
        word = _receive(self._line, _LOST.size)
        lost = 0 if word is None else _LOST.unpack(word)[0]
        if lost != _BYE and not self._left:
            self._on_loss(lost)


def _send(line: socket.socket, word: int) -> None:
    try:
        line.sendall(_LOST.pack(word))
    except OSError:  # it has ended too
        return


def _receive(line: socket.socket, size: int) -> bytes | None:
    """Return so many bytes, None where the other end has closed before."""
    data = b""
    while len(data) < size:
        try:
            part = line.recv(size - len(data))
        except OSError:
            return None
        if not part:
            return None
        data += part
    return data
