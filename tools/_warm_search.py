"""Hand a search of an index to the process that keeps it in memory (--serve), if there is one.

This module imports next to nothing: starting Python is most of what such a search takes, and `json` and
`socket` would double it. A request is the folder and the words of the command line, each with a zero byte
behind it. An answer is the exit code and the lengths of errors and output, likewise, then both in UTF-8.
"""

import errno
import os
import sys

try:
    import _socket as socket  # what `socket` is made of, without the modules that it imports
except ModuleNotFoundError:
    import socket

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
        os._exit(code)  # all is written; Python takes longer to leave than some searches take
    import _init_paths  # noqa: F401
    import _search_index
    from _command import run

    run(_search_index.main)


def served(words: list[str]) -> int | None:
    """Print what the process that serves the index answers, and return its code; None if there is none."""
    if any(is_own(word) for word in words):
        return None
    try:
        answer = ask(index_of(words), os.getcwd(), words)
        if answer is None:
            return None
        code, errors, out = answer
        for stream, text in ((sys.stderr, errors), (sys.stdout, out)):
            stream.write(text)
            stream.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        sys.stderr.write(f"error: cannot write the output: {error.strerror}: send it elsewhere\n")
        return 2
    return code


def is_own(word: str) -> bool:
    """Tell whether a word makes a search its own process: one of OWN_WORDS, perhaps cut short or longer."""
    name = word.partition("=")[0]
    cut = len(name) > 2  # argparse takes the beginning of an option for the whole
    return any(name.startswith(own) or (cut and own.startswith(name)) for own in OWN_WORDS)


def index_of(words: list[str]) -> str:
    """Return the value of --index, or nothing if it has none."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--index":
            return value if equals else "".join(words[place + 1 : place + 2])
    return ""


def ask(index: str, folder: str, words: list[str]) -> tuple[int, str, str] | None:
    """Return exit code, errors and output of a search in `folder`, by the process that serves an index.

    None: there is none.
    """
    path = os.path.join(index, SOCKET)
    if not os.path.exists(path):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(path)
        connection.sendall(b"".join(os.fsencode(word) + b"\0" for word in (folder, *words)))
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(1 << 20):
            parts.append(part)
        code, *lengths, texts = b"".join(parts).split(b"\0", 3)
        end, length = map(int, lengths)
        if len(texts) != end + length:  # it was ended meanwhile
            return None
        return int(code), *(text.decode(errors="surrogatepass") for text in (texts[:end], texts[end:]))
    except (OSError, ValueError):  # it has ended, or its address is too long: then this process searches
        return None
    finally:
        connection.close()
