"""Tells what a file is that is not what its name promises: a page, a pointer, nothing, another archive."""

import os
import re
import zipfile
from pathlib import Path

from config.errors import cut

_LFS = b"version https://git-lfs.github.com/spec"
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")
_ARCHIVES = {
    b"\x1f\x8b": "a file packed by gzip",
    b"BZh": "a file packed by bzip2",
    b"\xfd7zXZ": "a file packed by xz",
    b"7z\xbc\xaf": "an archive of 7-Zip",
    b"Rar!": "an archive of RAR",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
}
_PLAIN_PICKLE = re.compile(rb"\([dl]p\d+\n|\(i\w+\n|c(?:copy_reg|collections|__builtin__)\n")
_HEAD = 1024  # bytes that are looked at


def mistaken_kind(path: str | Path) -> str:
    """Return what the file at `path` is, with the remedy, such as "a page of HTML: download it again".

    The text is empty where the file's beginning tells of none of these mistakes, and where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    if not head:
        return "an empty file: download it again"
    if kind := mistaken_text(head):
        return kind
    if not head.strip(b"\0"):
        return "zeros alone, as an unfinished download leaves: download it again"
    for mark, kind in _ARCHIVES.items():
        if head.startswith(mark):
            return f"{kind}: unpack it, or download the file itself"
    if head[257:262] == b"ustar":
        return "an archive of tar: unpack it"
    return _kind_of_zip(path) if head.startswith(b"PK") else ""


def mistaken_text(content: bytes) -> str:
    """Return what text is that came in place of a file, with the remedy: a page of HTML, or a pointer."""
    start = content[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_LFS):
        return "a pointer of Git LFS, not the file itself: fetch it with git lfs pull, or download it again"
    if start.lower().startswith(_PAGES):
        return "a page of HTML, such as a download that failed gives: download it again"
    return ""


def is_pickle(content: bytes) -> bool:
    """Return whether content begins as a pickle of containers does, of protocol 0 or of 2 and later."""
    return content[:1] == b"\x80" or _PLAIN_PICKLE.match(content) is not None


def is_zip(path: str | Path) -> bool:
    """Tell whether a file is a zip, even one that cannot be opened; false where it cannot be read."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of several disks, or of a size that it cannot have
        return True


def refusal(path: str | Path, otherwise: str) -> str:
    """Return the message that refuses a file: what it is if that is plain, else `otherwise`."""
    kind = mistaken_kind(path)
    return f"{path}: {kind}" if kind else f"{path}: {otherwise}"


def _kind_of_zip(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "a zip that is cut short or damaged: download it again"
    if any(name.endswith("data.pkl") for name in names):
        return ""
    shown = ", ".join(cut(os.path.basename(name) or name, 24) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"a zip of something else ({shown or 'nothing'}{more}): unpack it, or download the file itself"
