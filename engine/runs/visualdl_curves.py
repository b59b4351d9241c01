"""Curves for VisualDL (`visualdl --logdir <run>/curves`)."""

import time
from pathlib import Path


class VisualDLCurves:
    """Write named values by step into a file in `folder`, as VisualDL shows them.

    VisualDL's own writer leaves the writing to a thread, which dies when the disk is full; the caller then
    waits for it for ever. This one writes the same records at once, and raises OSError.
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
