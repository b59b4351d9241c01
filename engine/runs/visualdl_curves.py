"""Curves for VisualDL (`visualdl --logdir <run>/curves`)."""

import struct
import time
from pathlib import Path

_LENGTH = struct.Struct("<Q")  # of a record, before it


class VisualDLCurves:
    """The curves of a run, in a file of VisualDL's format in `folder`; a file that is there is gone on with.

    VisualDL shows one file of a folder, the one of the latest name, and nothing of a file that ends within a
    record. So what a process that was killed has not written to its end is cut off. VisualDL's own writer
    writes in a thread that dies when the disk is full, and then its caller waits for ever. This class writes
    the same records at once, and raises OSError.
    """

    def __init__(self, folder: Path):
        from visualdl.component.base_component import meta_data  # imported here: it takes a third of a second
        from visualdl.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = max(
            folder.glob("vdlrecords.*.log"), default=folder / f"vdlrecords.{int(time.time()):010d}.log"
        )
        file = open(path, "ab")  # noqa: SIM115 - see close()
        size = _whole_records(path)
        file.truncate(size)
        self._records = RecordWriter(file)
        if not size:
            self._records.write(meta_data("meta_data_tag", "", 0, _now()).SerializeToString())

    def add(self, values: dict[str, float], step: int) -> None:
        """Add a point to each named curve."""
        from visualdl.component.base_component import scalar

        for tag, value in values.items():
            self._records.write(scalar(tag, value, step, _now()).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()


def _whole_records(path: Path) -> int:
    """Return the bytes of the records that a file holds whole."""
    end, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            following = end + _LENGTH.size + _LENGTH.unpack(head)[0]
            if following > size:
                break
            end = file.seek(following)
    return end


def _now() -> int:
    return round(time.time() * 1000)
