"""Wrong arguments on the command line are errors on one line."""

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

from config.errors import UserError


def report_errors_on_one_line(parser: argparse.ArgumentParser) -> None:
    """Make `parser` raise UserError for wrong arguments, and suggest the option that was probably meant."""

    def error(message: str) -> NoReturn:
        raise UserError(" ".join(f"command line: {message}{_advice(message, parser)}".split()))

    # The method is replaced on the object, not in a subclass, so that a tool may use any kind of parser.
    parser.error = error


def _advice(message: str, parser: argparse.ArgumentParser) -> str:
    usage = parser.format_usage()
    known = {"help", *re.findall(r"--([\w-]+)", usage)}
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


def _similar_keys(name: str) -> list[str]:
    from config.names import suggest  # not at the top: it needs YAML, which is not where an index is served

    return [key for key in suggest(name) if "." in key]
