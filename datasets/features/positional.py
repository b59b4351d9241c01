"""Files that are read by position, so that threads and processes share them without a lock."""

import contextlib
import gzip
import os
import weakref
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.kinds import mistaken_text
from config.files.whole import replacing

_SCAN_BYTES = 8 << 20  # bytes per read in a search for line starts
_BLOCK_BYTES = 1 << 20  # bytes that are decompressed at a time
_HEAD_BYTES = 1024  # that tell what a file is
_WINDOW_BYTES = 32 << 20  # of decompressed content that is kept; it grows to twice that before it is cut


class PositionalFile:
    """A file that is read at given offsets, without a position of its own that readers could disturb.

    Threads and forked processes share it; a process that receives it pickled opens the file anew. Raises
    `UserError` for a file that cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise unreadable(self.path, error) from error
        weakref.finalize(self, os.close, self._descriptor)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return PositionalFile, (self.path,)

    def size(self) -> int:
        """Return the current size of the file in bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`; fewer where the file ends."""
        return os.pread(self._descriptor, length, offset)

    def read_into(self, target: np.ndarray, offset: int) -> int:
        """Fill a contiguous array with the bytes at `offset`; return how many bytes there were."""
        return os.preadv(self._descriptor, [target], offset)


class GzipContent:
    """The decompressed content of a `.gz` file, with the interface of `PositionalFile`.

    It serves one thread that reads mostly forwards: it keeps the last 32 MB or more, and to read before these
    it decompresses the file from the beginning again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = gzip.GzipFile(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error
        self._window = bytearray()  # the content from `_start` to where the file was read
        self._start = 0
        self._size: int | None = None

    def size(self) -> int:
        """Return the size of the content in bytes; the first call reads all of it."""
        if self._size is None:
            offset = 0
            while length := len(self.read(offset, _SCAN_BYTES)):
                offset += length
            self._size = offset
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`; fewer where the content ends."""
        try:
            if offset < self._start:
                self._file.seek(0)
                self._window.clear()
                self._start = 0
            while self._start + len(self._window) < offset + length:
                block = self._file.read(_BLOCK_BYTES)
                if not block:
                    break
                self._window += block
                unneeded = min(len(self._window) - _WINDOW_BYTES, offset - self._start)
                if unneeded > _WINDOW_BYTES:
                    del self._window[:unneeded]
                    self._start += unneeded
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            kind = mistaken_text(PositionalFile(self.path).read(0, _HEAD_BYTES))
            problem = kind or f"cut short or damaged ({error}): copy or download it again"
            raise UserError(f"{self.path}: {problem}") from error
        return bytes(memoryview(self._window)[offset - self._start : offset - self._start + length])


class PackedArray:
    """Rows `[rows, width]` of numbers that lie one after another in a file, from `offset` on."""

    def __init__(self, file: PositionalFile, offset: int, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self._file = file
        self._offset = offset
        self._row_bytes = shape[1] * dtype.itemsize

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Read runs of rows as stored, `counts` [B] rows from each of `starts` [B]: [sum of counts, width].

        Raises `ShortReadError` if the file ends within a run.
        """
        out = np.empty((int(counts.sum()), self.shape[1]), dtype=self.dtype)
        ends = np.cumsum(counts)
        if len(starts) > 1 and (starts[1:] == starts[:-1] + counts[:-1]).all():
            got = self._file.read_into(out, self._offset + int(starts[0]) * self._row_bytes)
            if got != out.nbytes:
                raise ShortReadError(int(np.searchsorted(ends, got // self._row_bytes, side="right")))
            return out
        for run, (start, (first, last)) in enumerate(
            zip(starts.tolist(), pairwise([0, *ends.tolist()]), strict=True)
        ):
            target = out[first:last]
            if self._file.read_into(target, self._offset + start * self._row_bytes) != target.nbytes:
                raise ShortReadError(run)
        return out


class ShortReadError(Exception):
    """The file ended within one of the requested runs of rows; `run` is the index of that run."""

    def __init__(self, run: int) -> None:
        super().__init__(f"run {run} is cut short")
        self.run = run


class LineFile:
    """The lines of a text file by 0-based number, found through the offsets at which they start.

    `index_path` is a text file of these offsets, one per line (`.lineidx`). A missing index is written, or
    kept in memory if writing fails; without a path it is always kept in memory. Raises `UserError` that names
    the line of an index that does not belong to the file.
    """

    def __init__(self, file: PositionalFile | GzipContent, index_path: Path | None = None) -> None:
        self.file = file
        self.path = file.path
        self.index_path = index_path if index_path and index_path.is_file() else None
        if self.index_path:
            self.starts = self._read_index()
        else:
            self.starts = _find_starts(file)  # [lines + 1], the end of the file last
            if index_path:
                _write_index(index_path, self.starts[:-1])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def head(self, line: int, length: int) -> bytes:
        """Return up to `length` bytes of a line, its line end included; check that a line starts there."""
        start, end = int(self.starts[line]), int(self.starts[line + 1])
        before = min(1, start)
        head = self.file.read(start - before, before + min(length, end - start))
        if before and head[:1] != b"\n":
            raise self._stale(line)
        return head[before:]

    def line(self, line: int) -> bytes:
        """Return a line without its line end."""
        whole = self.head(line, int(self.starts[line + 1] - self.starts[line]))
        if b"\n" in whole[:-1]:
            raise self._stale(line + 1)
        return whole.rstrip(b"\r\n")

    def _read_index(self) -> np.ndarray:
        words, size = self.index_path.read_bytes().split(), self.file.size()
        starts = np.zeros(len(words) + 1, dtype=np.int64)
        starts[-1] = size
        for line, word in enumerate(words):
            if not word.isdigit() or len(word) > 18:
                raise UserError(
                    f"{self.index_path} line {line + 1}: expected the offset of a line, got {word[:30]!r}: "
                    "delete the file, it is made anew"
                )
            starts[line] = int(word)
        disorder = np.flatnonzero(np.diff(starts) <= 0)
        if not words or starts[0] != 0 or len(disorder):
            wrong = 0 if not words or starts[0] != 0 else min(int(disorder[0]) + 1, len(words) - 1)
            raise self._stale(wrong)
        inner = _find_starts(self.file, int(starts[-2]))
        if len(inner) != 2:
            raise self._stale(len(words))
        return starts

    def _stale(self, line: int) -> UserError:
        return UserError(
            f"{self.index_path or self.path} line {line + 1}: no line of {self.path} starts there: "
            "the index is of another file or cut short; delete it, it is made anew"
        )


def _find_starts(file: PositionalFile | GzipContent, start: int = 0) -> np.ndarray:
    """Return the offsets of lines, from `start` on, and the end of the file: int64 [lines + 1], bytes."""
    starts, offset = [start], start
    while block := file.read(offset, _SCAN_BYTES):
        at = block.find(b"\n")
        while at >= 0:
            starts.append(offset + at + 1)
            at = block.find(b"\n", at + 1)
        offset += len(block)
    if starts[-1] != offset:
        starts.append(offset)
    return np.array(starts, dtype=np.int64)


def _write_index(path: Path, starts: np.ndarray) -> None:
    # If the folder is read-only, or the disk is full, the index stays in memory.
    with contextlib.suppress(OSError), replacing(path) as draft:
        draft.write_text("".join(f"{start}\n" for start in starts.tolist()))


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a file that the system refuses to open."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UserError(f"{path}: no such file: check the name")
    return UserError(f"{path}: cannot be read: {error.strerror or error}: mend its name or permissions")
