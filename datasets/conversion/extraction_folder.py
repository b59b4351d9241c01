"""Store features in a folder while they are extracted, so that an interruption loses only one batch."""

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from config.files.whole import replacing
from datasets.features.store import Annotations, FeatureStore, image_size

_JOB, _JOURNAL, _VECTORS, _BOXES = "job.json", "journal.jsonl", "vectors.float32", "boxes.float32"


@dataclass(frozen=True)
class Extracted:
    """What was extracted from a picture.

    `vectors` is float32 [R,F]; R is 1 for a global vector. `size` is width and height in pixels. `boxes` is
    float32 [R,4]: x1, y1, x2, y2 in pixels. `tags` are names, with their `confidences`.
    """

    image_id: str
    vectors: np.ndarray
    size: tuple[int, int]
    boxes: np.ndarray | None = None
    tags: list[str] | None = None
    confidences: list[float] | None = None


@dataclass(frozen=True)
class _Entry:
    """A picture in the journal, of which `count` vectors are stored."""

    image_id: str
    count: int
    size: tuple[int, int]
    tags: list[str] | None
    confidences: list[float] | None


def _entry(image_id: str, count: int, size: list, tags: list | None, confidences: list | None) -> _Entry:
    """Return the entry of a line of the journal; raise ValueError or TypeError for another."""
    known = isinstance(image_id, str) and type(count) is int and count >= 0
    if not known or not (tags is None or all(isinstance(tag, str) for tag in tags)):
        raise ValueError("not an entry")
    if confidences is not None and np.array(confidences, np.float32).shape != (len(tags or []),):
        raise ValueError("not a confidence for each tag")
    return _Entry(image_id, count, image_size(*size), tags, confidences)


class ExtractionFolder:
    """The folder `TARGET.extraction`, to which features are added batch by batch.

    `job` tells what is extracted, and how, in values that JSON holds. The folder of another job is refused;
    with `replace` it is emptied. `done` is the number of complete pictures, readable or not. `problems` maps
    the ids of unreadable pictures to the reason.
    Vectors are flushed to the disk before the line of the journal that counts them: after a kill at any
    moment, what the journal counts is there. Raises `UserError` if the folder cannot be written, has another
    job, or another process is writing it.
    """

    def __init__(self, target: Path, job: dict[str, object], replace: bool = False) -> None:
        self.path = target.with_name(f"{target.name}.extraction")
        self.entries: list[_Entry] = []
        self.problems: dict[str, str] = {}
        self._bytes = {_VECTORS: 0, _BOXES: 0}
        self._lock: int | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
            self._acquire()
            if replace and self._other_part(job):
                (self.path / _JOB).unlink()
            self._check_job(job)
            self._read_journal()
        except OSError as error:
            self._release()
            raise self._disk_error(error) from error
        except UserError:
            self._release()
            raise

    @property
    def done(self) -> int:
        """Return the number of complete pictures."""
        return len(self.entries) + len(self.problems)

    def add(self, pictures: Sequence[Extracted], problems: dict[str, str]) -> None:
        """Write a batch: the extracted pictures, and why others could not be read."""
        data = {_VECTORS: b"".join(picture.vectors.astype("<f4").tobytes() for picture in pictures)}
        if any(picture.boxes is not None for picture in pictures):
            data[_BOXES] = b"".join(picture.boxes.astype("<f4").tobytes() for picture in pictures)
        entries = [
            _Entry(picture.image_id, len(picture.vectors), picture.size, picture.tags, picture.confidences)
            for picture in pictures
        ]
        try:
            for name, values in data.items():
                self._append(name, values)
                self._bytes[name] += len(values)
            width = pictures[0].vectors.shape[1] if pictures else None
            line = {"width": width, "bytes": self._bytes, "problems": problems}
            line["pictures"] = [list(vars(entry).values()) for entry in entries]
            self._append(_JOURNAL, (json.dumps(line, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise self._disk_error(error) from error
        self.entries += entries
        self.problems |= problems

    def store(self) -> "ExtractedFeatures":
        """Return the extracted features.

        If no picture could be read, or none has a region, removes the folder and raises `UserError`.
        """
        if not self.entries:
            self.remove()
            name, problem = next(iter(self.problems.items()))
            raise UserError(
                f"{name}: {problem}; none of {self.done} pictures could be read: mend or convert them"
            )
        if not any(entry.count for entry in self.entries):
            self.remove()
            raise UserError(
                f"no region was found in any of {len(self.entries)} pictures, such as "
                f"{cut(self.entries[0].image_id)}: use another detector, or lower its SCORE"
            )
        return ExtractedFeatures(self.path, self.entries)

    def remove(self) -> None:
        """Remove the folder, whose content is elsewhere by now or not wanted."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def close(self) -> None:
        """Release the folder to other processes; remove it if no picture is complete."""
        if self.done:
            self._release()
        else:
            self.remove()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.path}: another process is writing it: wait for it to end") from error

    def _check_job(self, job: dict[str, object]) -> None:
        path = self.path / _JOB
        if not path.exists():
            for name in (_JOURNAL, _VECTORS, _BOXES):
                (self.path / name).unlink(missing_ok=True)
            with replacing(path) as draft:
                draft.write_text(json.dumps(job, ensure_ascii=False, indent=1), encoding="utf-8")
        if part := self._other_part(job):
            raise UserError(
                f"{self.path}: an extraction was stopped here with other {part}: give its command again to "
                "go on, or --overwrite to begin anew"
            )

    def _other_part(self, job: dict[str, object]) -> str | None:
        """Return the first part of `job` that differs from the folder's job; None if none does."""
        path = self.path / _JOB
        if not path.exists():
            return None
        wanted = json.loads(json.dumps(job))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            return f"settings ({_JOB} is damaged)"
        return next((name for name in wanted if found.get(name) != wanted[name]), None)

    def _read_journal(self) -> None:
        """Read the complete lines of the journal, and truncate the files to what those lines count.

        Raises UserError for a line that `add` did not write, and for a file that lacks what the lines count.
        """
        journal = self.path / _JOURNAL
        text = journal.read_bytes() if journal.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        vectors = width = 0
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                entries = [_entry(*values) for values in record["pictures"]]
                problems = {str(name): str(problem) for name, problem in record["problems"].items()}
                self._bytes = {name: int(record["bytes"][name]) for name in self._bytes}
                vectors += sum(entry.count for entry in entries)
                width = int(record["width"]) if entries else width
                stored = self._bytes[_VECTORS], self._bytes[_BOXES]
                if stored[0] != 4 * vectors * width or stored[1] not in (0, 16 * vectors):
                    raise ValueError("another number of vectors")
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise self._damaged(f"{_JOURNAL} line {number}") from error
            self.entries += entries
            self.problems |= problems
        for name, size in {**self._bytes, _JOURNAL: len(whole)}.items():
            with open(self.path / name, "ab") as file:
                if os.fstat(file.fileno()).st_size < size:
                    raise self._damaged(name)
                file.truncate(size)

    def _append(self, name: str, data: bytes) -> None:
        with open(self.path / name, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _damaged(self, part: str) -> UserError:
        return UserError(f"{self.path}: {part} is damaged: delete that folder to begin anew")

    def _disk_error(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path}: {error.strerror or error}: mend that and give the command again, "
            "which goes on from there"
        )


class ExtractedFeatures(FeatureStore):
    """The features in an `ExtractionFolder`: float32, with the boxes, tags and sizes that were extracted."""

    dtype = np.dtype(np.float32)

    def __init__(self, folder: Path, entries: Sequence[_Entry]) -> None:
        self.path = folder / _VECTORS
        self._entries = entries
        self._counts = np.array([entry.count for entry in entries], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        total = int(self._starts[-1])
        boxes = folder / _BOXES
        has_boxes = boxes.stat().st_size > 0
        self._boxes = np.memmap(boxes, "<f4", "r", shape=(total, 4)) if has_boxes else None
        self._vectors = np.memmap(self.path, "<f4", "r").reshape(total, -1)
        self.dim = self._vectors.shape[1]
        self.max_regions = int(self._counts.max()) if has_boxes else None
        self._name_rows(self.path, [entry.image_id for entry in entries], "picture {}")

    def __len__(self) -> int:
        return len(self._entries)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of regions of each row: int64 [B]."""
        return self._counts[rows]

    def annotations(self, row: int) -> Annotations:
        """Return a row's boxes, tags and image size."""
        entry = self._entries[row]
        boxes = None if self._boxes is None else np.array(self._boxes[self._run(row)])
        confidences = None if entry.confidences is None else np.array(entry.confidences, dtype=np.float32)
        return Annotations(boxes, entry.tags, confidences, entry.size)

    def _read(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.concatenate([self._vectors[self._run(row)] for row in rows.tolist()])

    def _run(self, row: int) -> slice:
        return slice(self._starts[row], self._starts[row + 1])
