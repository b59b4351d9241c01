"""A conversion in progress: a folder beside the target that holds what is written, and how much it is."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.files.whole import refuse_existing, replacing
from config.progress import ShowProgress, no_progress
from datasets.conversion.contents import Contents
from datasets.conversion.precision import Deviation, compare, encode
from datasets.conversion.targets import check_target, create_files, file_names, places
from datasets.features.formats import open_features
from datasets.features.store import FeatureStore

_BLOCK_BYTES = 4 << 20  # of float32 vectors that are read, converted and written together
_RECORD_BYTES = 256 << 20  # written between two records of the complete images
_RECORD = "progress.json"


class FeatureDraft:
    """The folder `TARGET.partial`, in which the files of a target are written until they are complete.

    `images_done` is the number of complete images; it is not 0 if an interrupted conversion of the same
    source to the same type is resumed. Vectors are written at their final place, and flushed to the disk
    before their images are recorded as complete: after a kill at any moment, the record is true.
    Raises `UserError` if the target cannot be written, or another process is writing it.
    """

    def __init__(self, target: Path, source: FeatureStore, contents: Contents, dtype: str) -> None:
        check_target(target, contents, dtype)
        self.target = target
        self.folder = partial_folder(target)
        self.path = self.folder / target.name
        self._source, self._contents, self._dtype = source, contents, dtype
        status = source.path.stat()
        self._wanted = {
            "source": [status.st_size, status.st_mtime_ns],
            "dtype": dtype,
            "contents": contents.digest(),
        }
        self._lock: int | None = None
        with self._disk_errors():
            self._open()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.folder}: another process is writing it: wait for it to end") from error
        self.images_done = self._read_record()
        if self.images_done == 0:
            self._clear()
            create_files(self.path, self._contents, self._dtype)
            self._record(0)
        self._places = places(self.path, self._contents, self._dtype)

    def write(self, progress: ShowProgress = no_progress) -> None:
        """Write the images that are not complete.

        Raises `UserError` for a fault of the source, and removes what was written; raises it for a fault of
        the disk too, and keeps what was written.
        """
        with self._disk_errors(), contextlib.ExitStack() as files:
            try:
                self._write(files, progress)
            except UserError:
                self.discard()
                raise

    def _write(self, stack: contextlib.ExitStack, progress: ShowProgress) -> None:
        counts = self._contents.counts
        first_vectors = np.concatenate([[0], np.cumsum(counts)])
        files = {}
        for path in {place.path for place in self._places.values()}:
            files[path] = os.open(path, os.O_WRONLY)
            stack.callback(os.close, files[path])
        step = max(1, _BLOCK_BYTES // (4 * self._contents.dim * int(counts.max())))
        unrecorded = 0
        for start in range(self.images_done, len(counts), step):
            rows = np.arange(start, min(start + step, len(counts)))
            for name, values in self._encode(rows).items():
                place = self._places[name]
                _write_all(
                    files[place.path], values, place.offset + int(first_vectors[start]) * place.row_bytes
                )
                unrecorded += values.nbytes
            done = int(rows[-1]) + 1
            if unrecorded >= _RECORD_BYTES or done == len(counts):
                for descriptor in files.values():
                    os.fsync(descriptor)
                self._record(done)
                unrecorded = 0
            progress("writing", done, len(counts))

    def _encode(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the stored form of some images' features, with scales and boxes where these have a place."""
        vectors = self._source.vectors(rows)
        features, scales = encode(vectors, self._dtype)
        if self._dtype == "float16" and not np.isfinite(features).all():
            vector = np.flatnonzero(~np.isfinite(features).all(axis=1))[0]
            row = rows[np.searchsorted(np.cumsum(self._contents.counts[rows]), vector, side="right")]
            raise UserError(
                f"{self._source.path}: row {row + 1} holds {np.abs(vectors[vector]).max():g}, which float16 "
                "cannot (65504 is its largest): convert with --dtype float32"
            )
        parts = {"features": features}
        if scales is not None:
            parts["scales"] = scales
        if self._contents.has_boxes:
            boxes = [self._source.annotations(row).boxes for row in rows.tolist()]
            parts["boxes"] = np.concatenate(boxes).astype(np.float32)
        return parts

    def compare(self, progress: ShowProgress = no_progress) -> Deviation:
        """Read the written files again and return their deviation from the source.

        Raises `UserError` if they are not what was to be written, and removes them.
        """
        try:
            return compare(self._source, open_features(self.path), self._contents.ids, self._dtype, progress)
        except UserError:
            self.discard()
            raise

    def finish(self) -> None:
        """Move the files to their final names, the target last; older files of the target are replaced."""
        with self._disk_errors():
            names = file_names(self.target, self._contents)
            for name in set(file_names(self.target)) - set(names):
                self.target.with_name(name).unlink(missing_ok=True)
            for name in names:
                os.replace(self.folder / name, self.target.with_name(name))
        self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):
            self._clear()
            self.folder.rmdir()
        self.close()

    def _clear(self) -> None:
        records = self.folder.glob(f"*{_RECORD}*")  # and the drafts that a killed process leaves
        for path in (*map(self.folder.joinpath, file_names(self.target)), *records):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder to other processes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read_record(self) -> int:
        """Return the number of complete images; 0 for another conversion, or if files are missing."""
        try:
            record = json.loads((self.folder / _RECORD).read_text())
        except (OSError, ValueError, RecursionError):
            return 0
        if not isinstance(record, dict) or not isinstance(images_done := record.pop("images_done", 0), int):
            return 0
        files = [self.folder / name for name in file_names(self.target, self._contents)]
        return images_done if record == self._wanted and all(path.exists() for path in files) else 0

    def _record(self, images_done: int) -> None:
        self.images_done = images_done
        with replacing(self.folder / _RECORD) as draft:
            draft.write_text(json.dumps({**self._wanted, "images_done": images_done}))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror or error}: mend that and give the command "
                "again, which goes on from there"
            ) from error


def refuse_existing_target(target: Path, overwrite: bool, another: str) -> None:
    """Raise `UserError` if a file of the target exists and `overwrite` is false, or if it is a folder.

    `another` is the option or argument that names the target.
    """
    there = [path for path in map(target.with_name, file_names(target)) if path.exists()]
    if there and there[-1].is_dir():
        raise UserError(f"{there[-1]}: this is a folder: name a file in it, such as {there[-1]}/features.h5")
    # An interrupted `finish` may have moved ids and tags to their final names already.
    if there and (target in there or not partial_folder(target).exists()):
        refuse_existing(there[0], overwrite, another)


def partial_folder(target: Path) -> Path:
    """Return the folder in which a target is written until it is complete."""
    return target.with_name(f"{target.name}.partial")


def _write_all(descriptor: int, values: np.ndarray, offset: int) -> None:
    data = memoryview(np.ascontiguousarray(values)).cast("B")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
