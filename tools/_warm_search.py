"""Hand a search of an index to the process that keeps it in memory (--serve), if there is one.

This module imports next to nothing: starting Python is most of what such a search takes.
"""

import json
import os
import socket
import sys

SOCKET = "search.sock"
OWN_WORDS = (
    "--serve",
    "--queries",
    "--bundle",
    "--rerank",
    "--help",
    "-h",
)  # such a search is its own process
_PATIENCE = 60.0  # seconds


def main() -> int | None:
    """Search by the process that serves the index, or else here."""
    words = sys.argv[1:]
    names = [word.partition("=")[0] for word in words]
    if not any(name.startswith(own) for name in names for own in OWN_WORDS):
        answer = ask(index_of(words), {"words": words, "folder": os.getcwd()})
        if answer is not None:
            sys.stdout.write(answer["out"])
            sys.stderr.write(answer["errors"])
            return answer["code"]
    import _search_index

    return _search_index.main()


def index_of(words: list[str]) -> str:
    """Return the value of --index, or nothing if it has none."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--index":
            return value if equals else "".join(words[place + 1 : place + 2])
    return ""


def ask(index: str, request: dict) -> dict | None:
    """Return the answer of the process that serves an index; None if there is none."""
    path = os.path.join(index, SOCKET)
    if not os.path.exists(path):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answer:
                return json.loads(answer.readline())
        except (OSError, ValueError):  # it has ended, or its address is too long: then this process searches
            return None
