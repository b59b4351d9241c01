"""The one exception that stands for a user's mistake, and how its message shows what came."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: a file, a configuration, a command line.

    The message is one line: what was expected, what came, where (file and row, or key), and how to
    fix it. The command-line tools print it without a traceback and exit with code 2.
    """


class UnavailableError(UserError):
    """A disk that is full or a server that is away: nothing is wrong with what was asked."""


def some(names: Iterable[object], shown: int = 5) -> str:
    """Return the first five of some names with commas, and how many there are if that is not all."""
    names = list(names)
    first = ", ".join(cut(name) for name in names[:shown])
    if len(first) > 120:  # so that a message about long names stays a line
        first = ", ".join(cut(name, 24) for name in names[:shown])
    return first + (f", ... ({len(names)} in all)" if len(names) > shown else "")


def cut(value: object, longest: int = 40) -> str:
    """Return a value as one line of text of at most `longest` characters, for a message."""
    text = " ".join(str(value)[: 4 * longest].split())
    text = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."
