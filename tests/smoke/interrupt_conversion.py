"""Run tools/convert_features.py an image at a time, and send it a signal when so many images are complete.

python interrupt_conversion.py SIGKILL 7 tools/convert_features.py INPUT OUTPUT
"""

import os
import runpy
import signal
import sys
from pathlib import Path

name, at_image, tool, *arguments = sys.argv[1:]
sys.path[:0] = [str(Path(tool).parent), str(Path(tool).parents[1])]

from datasets.conversion import writer  # noqa: E402

writer._BLOCK_BYTES = writer._RECORD_BYTES = 1
record = writer.FeatureDraft._record


def record_and_signal(draft: writer.FeatureDraft, images_done: int) -> None:
    """Record what is complete, and let the signal come if it is time."""
    record(draft, images_done)
    if images_done == int(at_image):
        os.kill(os.getpid(), signal.Signals[name])


writer.FeatureDraft._record = record_and_signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without it
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name="__main__")
