"""Read users' text files, whole or line by line; an error names the file and, if possible, the line."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config.errors import UserError, cut
from config.files.kinds import is_pickle, mistaken_kind, mistaken_text


def read_lines(path: Path, kind: str) -> list[str]:
    """Return the stripped lines of a file, one `kind` each; only line feeds end lines, as in the originals.

    Raises `UserError` that names a line that is empty or not UTF-8.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    if not lines[-1]:  # after the last line feed
        lines.pop()
    if not lines:
        raise UserError(f"{path}: empty file, expected one {kind} a line")
    if "" in lines:
        alone = "it with its image" if kind in ("caption", "image id") else "it"
        raise UserError(
            f"{path} line {lines.index('') + 1}: empty {kind}: fill the line in, or remove {alone}"
        )
    return lines


def read_text(path: Path, remedy: str = "check DATASET.DATA_DIR and the names of its splits") -> str:
    """Return the content of a file in UTF-8, with or without a byte order mark.

    Raises `UserError` for a file that is missing, unreadable, not UTF-8 or with bytes of zero, and for a page
    of HTML or a pointer of Git LFS in its place.
    """
    try:
        content = path.read_bytes()
        if kind := mistaken_text(content):
            raise UserError(f"{path}: {kind}")
        if is_pickle(content):
            remedy = "tools/convert_weights.py converts vocabularies and captions"
            raise UserError(f"{path}: a pickle, expected text: {remedy}")
        text = content.decode("utf-8-sig")
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise UserError(
                f"{path} line {line}: a byte of zero, as UTF-16 has: save the file as text in UTF-8"
            )
        return text
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such file: {remedy}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: mend its name or permissions") from error
    except UnicodeDecodeError as error:
        if kind := mistaken_kind(path):
            raise UserError(f"{path}: {kind}") from error
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UserError(
            f"{path} line {line}: byte {byte:#04x} is not UTF-8: save the file as UTF-8"
        ) from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers; only line feeds end them.

    `str.splitlines` would also cut a sentence at U+2028, U+0085 and other letters that captions hold.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def parse_json(path: Path, text: str | bytes, place: str = "", **hooks: Callable) -> object:
    """Return what JSON text holds; `place` says where in the file it stands, and `hooks` are json.loads's.

    Raises `UserError` that names the line of a syntax error, and for lists that are nested too deeply,
    numbers that are too long, text that is not UTF-8, and nothing at all.
    """
    if not text.strip():
        raise UserError(f"{path}{place}: an empty file: download it again")
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}{place or f' line {error.lineno}'}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise UserError(
            f"{path}{place}: thousands of lists or objects within each other: make the file again"
        ) from error
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise UserError(f"{path}{place}: not JSON: {cut(error, 80)}") from error


def shown_json(value: object) -> str:
    """Return a value as JSON, cut to 60 characters, for a message; `nothing` for None."""
    return "nothing" if value is None else cut(json.dumps(value, ensure_ascii=False, default=str), 60)


def refuse_duplicates(path: Path, names: Sequence[str], place: str = "line {}") -> dict[str, int]:
    """Return each name's position.

    Raises `UserError` that names the two positions of a name that repeats, 1-based and worded by `place`.
    """
    positions = {}
    for position, name in enumerate(names):
        if name in positions:
            here, there = place.format(position + 1), place.format(positions[name] + 1)
            raise UserError(
                f"{path} {here}: duplicate image id {cut(name)!r}, also {there}: give each image its own"
            )
        positions[name] = position
    return positions
