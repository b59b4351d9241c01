"""Write a file or a folder whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError


def write_whole(path: Path, content: str | bytes, remedy: str = "") -> None:
    """Write a file whole or not at all, and create the folders above it.

    Raises UserError as `writing` does.
    """
    with writing(path, remedy) as draft:
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            draft.write_text(content, encoding="utf-8")


def refuse_existing(path: Path, overwrite: bool, another: str = "output") -> None:
    """Raise UserError if `path` exists and `overwrite` is false.

    `another` is the option or argument with which the user can choose another place.
    """
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: already there: give another {another}, or --overwrite to replace it")


@contextlib.contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[Path]:
    """Yield a draft that replaces `path` after the block, as in `replacing`; create the folders above `path`.

    Raises UserError if the file system refuses; the message ends with `remedy`, what the user can do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            yield draft
    except OSError as error:
        parts = (
            f"cannot write {path}: {error.strerror or error}",
            "what was there before is intact",
            remedy,
        )
        raise UserError("; ".join(filter(None, parts))) from error


@contextlib.contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield the path of a draft, a file or a folder, that replaces `path` after the block.

    If the block or the file system raises, the draft is removed and `path` is left as it was. `flush` writes
    the draft to the disk before it is renamed, so that a power failure leaves nothing half-written. Raises
    OSError.
    """
    draft, before = draft_name(path), draft_name(path, "old")
    try:
        yield draft
        if flush:
            for each in (*draft.rglob("*"), draft):
                flush_to_disk(each)
        if draft.is_dir() and os.path.lexists(path):  # a folder cannot be renamed to one that holds files
            os.rename(path, before)
        os.replace(draft, path)
    finally:
        _remove(draft)
        if os.path.lexists(before) and not os.path.lexists(path):
            os.rename(before, path)
        _remove(before)


def draft_name(path: Path, ending: str = "new") -> Path:
    """Return the hidden name, beside `path`, under which this process drafts it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # an error here must not hide the one that led here
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
