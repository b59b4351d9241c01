"""Wrong arguments on the command line are errors on one line."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from config.errors import UserError


def report_errors_on_one_line(parser: argparse.ArgumentParser) -> None:
    """Make `parser` raise UserError for wrong arguments, and suggest the option that was probably meant."""

    def error(message: str) -> NoReturn:
        if "required" in message:  # which a mistyped option explains; argparse would tell of it only later
            unknown = _unknown_options(sys.argv[1:], _known_options(parser.format_usage()))
            message = f"unrecognized arguments: {' '.join(unknown)}" if unknown else message
        raise UserError(" ".join(f"command line: {message}{_advice(message, parser)}".split()))

    # The method is replaced on the object, not in a subclass, so that a tool may use any kind of parser.
    parser.error = error


def _advice(message: str, parser: argparse.ArgumentParser) -> str:
    usage = parser.format_usage()
    known = _known_options(usage)
    for name in re.findall(r"(?<!\S)--?([\w.-]+)", message):
        if name in known:
            continue
        if "." in name:
            return f"; write {name}=VALUE without the dashes"
        close = get_close_matches(name.lower(), known, n=1)
        if close:
            return f"; did you mean --{close[0]}?"
        keys = _similar_keys(name) if "KEY=VALUE" in usage else []
        if keys:
            return f"; write {' or '.join(f'{key}=VALUE' for key in keys)} without the dashes"
    return f"; see {parser.prog} --help"


def _known_options(usage: str) -> set[str]:
    return {"help", *re.findall(r"--([\w-]+)", usage)}


def _unknown_options(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the options among `words` that are neither `known` nor begin one that is, without values."""
    options = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    return [option for option in options if not any(name.startswith(option[2:]) for name in known)]


def _similar_keys(name: str) -> list[str]:
    from config.names import suggest  # not at the top: it needs YAML, which is not where an index is served

    return [key for key in suggest(name) if "." in key]
