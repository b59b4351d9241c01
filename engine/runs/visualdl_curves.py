"""Curves for VisualDL (`visualdl --logdir <run>/curves`)."""

import time
from pathlib import Path


class VisualDLCurves:
    """The curves of a run, in a file of VisualDL's format in `folder`.

    VisualDL's own writer writes in a thread that dies when the disk is full, and then its caller waits for
    ever. This class writes the same records at once, and raises OSError.
    """

    def __init__(self, folder: Path):
        from visualdl.component.base_component import meta_data  # imported here: it takes a third of a second
        from visualdl.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / f"vdlrecords.{int(time.time()):010d}.log", "ab")  # noqa: SIM115 - see close()
        self._records = RecordWriter(file)
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


def _now() -> int:
    return round(time.time() * 1000)
