"""Writing a file or a folder whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError


def write_whole(path: Path, content: str | bytes, remedy: str = "") -> None:
    """Write a file whole or not at all, with the folders that it needs; see `writing`."""
    with writing(path, remedy) as draft:
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            draft.write_text(content, encoding="utf-8")


def refuse_existing(path: Path, overwrite: bool, another: str = "output") -> None:
    """Raise UserError where something would be lost that --overwrite does not give up.

    another: what the user would give to name another place.
    """
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: already there: give another {another}, or --overwrite to replace it")


@contextlib.contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[Path]:
    """Yield a draft of `path` as `replacing` does, and make the folders that it needs.

    Raises UserError where the disk refuses, which ends with `remedy`, what the user can do.
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
    """Yield the path of a draft, a file or a folder, that takes the place of `path` after the block.

    Where the block or the disk raises, the draft is removed and `path` is as it was. flush: the draft reaches
    the disk before it is renamed, so that a loss of power leaves nothing half-written. Raises OSError.
    """
    draft, before = draft_name(path), draft_name(path, "old")
    try:
        yield draft
        if flush:
            for each in (*draft.rglob("*"), draft):
                flush_to_disk(each)
        if draft.is_dir() and os.path.lexists(path):  # no folder can be renamed over another that holds files
            os.rename(path, before)
        os.replace(draft, path)
    finally:
        _remove(draft)
        if os.path.lexists(before) and not os.path.lexists(path):
            os.rename(before, path)
        _remove(before)


def draft_name(path: Path, ending: str = "new") -> Path:
    """Return where this process drafts `path`: a hidden name beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def flush_to_disk(path: Path) -> None:
    """Return when a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a failure must not hide the one that led here
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
