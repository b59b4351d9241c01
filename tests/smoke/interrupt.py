"""Run a tool to which something happens right after a step of training is logged and checkpoints are written.

    python interrupt.py SIGTERM 7 tools/train_retrieval.py --cfg_file F

EVENT is one or more signals (SIGINT,SIGINT), or `full:BYTES`: from then on no file can grow beyond that
size, as on a full disk.
"""

import os
import resource
import runpy
import signal
import sys
import threading
from pathlib import Path

event, at_step, tool, *arguments = sys.argv[1:]
sys.path[:0] = [str(Path(tool).parent), str(Path(tool).parents[1])]

from engine.runs.run_log import RunLog  # noqa: E402

log_step = RunLog.step


def happen(log: RunLog, record: dict, seconds_left: float) -> None:
    """Log a step, and let the event happen if it is the one."""
    log_step(log, record, seconds_left)
    if record["step"] != int(at_step):
        return
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    if event.startswith("full:"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(event.partition(":")[2]), resource.RLIM_INFINITY))
    else:
        for name in event.split(","):
            os.kill(os.getpid(), signal.Signals[name])


RunLog.step = happen
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name="__main__")
