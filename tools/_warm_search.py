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


def main() -> None:
    """Search by the process that serves the index, or else here, and end the process with the exit code."""
    code = served(sys.argv[1:])
    if code is not None:
        sys.exit(code)
    import _init_paths  # noqa: F401
    import _search_index
    from _command import run

    run(_search_index.main)


def served(words: list[str]) -> int | None:
    """Print what the process that serves the index answers, and return its code; None if there is none."""
    names = [word.partition("=")[0] for word in words]
    if any(name.startswith(own) for name in names for own in OWN_WORDS):
        return None
    try:
        answer = ask(index_of(words), {"words": words, "folder": os.getcwd()})
        if answer is None:
            return None
        sys.stderr.write(answer["errors"])
        sys.stdout.write(answer["out"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return answer["code"]


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
