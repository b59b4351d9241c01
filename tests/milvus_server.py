"""A real Milvus, from PyPI's wheel of a standalone server, that a test starts on this machine and ends.

MILVUS_ADDRESS names another, such as http://127.0.0.1:19530, that runs already. One machine can run one such
server at a time, since the port of its etcd is fixed.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LONGEST_START = 600_000  # milliseconds; a quiet machine takes twelve seconds


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
        server.wait_started(LONGEST_START)
        yield f"http://127.0.0.1:{server.listen_port}"
    finally:
        server.stop()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
