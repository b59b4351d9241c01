"""Text files of others, read whole or line by line; an error names the file and, where it can, the line."""

from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError


def read_lines(path: Path, kind: str) -> list[str]:
    """Read one stripped `kind` a line; only line feeds part lines, as in the originals.

    Raises `UserError` naming the line that is empty or not UTF-8.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    if not lines[-1]:  # after the last line feed
        lines.pop()
    if not lines:
        raise UserError(f"{path}: empty file, expected one {kind} a line")
    if "" in lines:
        raise UserError(
            f"{path} line {lines.index('') + 1}: empty {kind}: fill the line in, or remove its image"
        )
    return lines


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(
            f"{path}: no such file: check DATASET.DATA_DIR and the names of its splits"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: mend its name or permissions") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UserError(
            f"{path} line {line}: byte {byte:#04x} is not UTF-8: save the file as UTF-8"
        ) from error


def refuse_duplicates(path: Path, names: Sequence[str], place: str = "line {}") -> dict[str, int]:
    """Return each name's position; raise `UserError` naming the two places (1-based) of one that repeats."""
    positions = {}
    for position, name in enumerate(names):
        if name in positions:
            here, there = place.format(position + 1), place.format(positions[name] + 1)
            raise UserError(
                f"{path} {here}: duplicate image id {name!r}, also {there}: give each image its own"
            )
        positions[name] = position
    return positions
