"""Run tools/extract_features.py, and send it a signal when so many pictures are recorded.

python interrupt_extraction.py SIGKILL 4 tools/extract_features.py [arguments ...]
"""

import os
import runpy
import signal
import sys
from pathlib import Path

name, at_picture, tool, *arguments = sys.argv[1:]
sys.path[:0] = [str(Path(tool).parent), str(Path(tool).parents[1])]

from datasets.conversion import extraction_folder  # noqa: E402

add = extraction_folder.ExtractionFolder.add


def add_and_signal(folder: extraction_folder.ExtractionFolder, *batch: object) -> None:
    """Record a batch, and let the signal come if it is time."""
    add(folder, *batch)
    if folder.done >= int(at_picture):
        os.kill(os.getpid(), signal.Signals[name])


extraction_folder.ExtractionFolder.add = add_and_signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without it
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name="__main__")
