"""A real Milvus, from PyPI's wheel of a standalone server, that a test starts on this machine and ends.

MILVUS_ADDRESS names another, such as http://127.0.0.1:19530, that runs already. One machine can run one such
server at a time, since the port of its etcd is fixed.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LONGEST_START = 600  # seconds; a quiet machine takes twelve


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Yield the address of a server whose data are in `folder`; it is ended after the block."""
    if "MILVUS_ADDRESS" in os.environ:
        yield os.environ["MILVUS_ADDRESS"]
        return
    from milvus import MilvusServer, MilvusServerConfig

    settings = {"data_dir": str(folder), "proxy_port": free_port()}
    server = MilvusServer(MilvusServerConfig(), wait_for_started=False, **settings)
    try:
        server.start()
        wait_started(server)
        yield f"http://127.0.0.1:{server.listen_port}"
    finally:
        server.stop()


def wait_started(server) -> None:
    """Return once `server` answers; raise RuntimeError where it has ended, unseen by its own wait."""
    ends = time.monotonic() + LONGEST_START
    while time.monotonic() < ends:
        with contextlib.suppress(TimeoutError):
            server.wait_started(1000)  # milliseconds
            return
        if (code := server.server_proc.poll()) is not None:
            raise RuntimeError(f"Milvus ended with {code}: another may hold the port of its etcd, 2379")
    raise TimeoutError(f"Milvus does not answer after {LONGEST_START} s")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
