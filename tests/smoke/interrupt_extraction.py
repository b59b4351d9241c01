"""Run tools/extract_features.py and send its own process a signal when so many pictures are done.

    python interrupt_extraction.py SIGKILL 4 tools/extract_features.py [arguments ...]

The moment is when the progress bar moves past that number: batches up to there are recorded.
"""

import os
import runpy
import signal
import sys

import tqdm


class Watched(tqdm.tqdm):
    """A bar that sends the signal; it is silent, and counts all the same."""

    def update(self, n: float = 1) -> None:
        """Count, and send the signal at its time."""
        super().update(n)
        self.counted = getattr(self, "counted", 0) + n
        if self.counted >= int(pictures):
            os.kill(os.getpid(), getattr(signal, name))


name, pictures, *sys.argv = sys.argv[1:]
tqdm.tqdm = Watched
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
