"""What the service listens on."""

import socket
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_connections_send_an_answer_at_once(monkeypatch):
    """Without TCP_NODELAY the body of an answer waits until the client has acknowledged its head."""
    monkeypatch.syspath_prepend(TOOLS)
    from tools.serve_retrieval import listen

    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
