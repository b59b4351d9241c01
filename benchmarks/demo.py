"""The demo after set-up against an earlier build: wall-clock and processor time of one run each.

Each build works in a checkout of its own, so that data and runs of this folder stay as they are.
"""

from _builds import EARLIER, checkout
from _report import report, untuned

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    measured = {}
    with tempfile.TemporaryDirectory() as room:
        for name, commit in (("ours", "HEAD"), ("earlier", EARLIER)):
            with checkout(Path(room) / name, commit) as build:
                measured[name] = run_demo(build)
            wall, processor = measured[name]
            print(f"{name}: {wall:.0f} s, {processor:.0f} s of processor time", flush=True)
    sides = zip(measured["ours"], measured["earlier"], strict=True)
    for kind, (ours, earlier) in zip(("wall-clock", "processor"), sides, strict=True):
        goal = 1 / 0.6 if kind == "wall-clock" else 1
        report(f"the demo against {EARLIER}, {kind} time", ours, earlier, goal, "s", higher_is_better=False)


def run_demo(build: Path) -> tuple[float, float]:
    """Return the wall-clock and the processor seconds of a build's demo; raises RuntimeError if it fails."""
    started, before = time.monotonic(), _processor_seconds()
    command = [sys.executable, "tools/demo.py"]
    done = subprocess.run(command, cwd=build, env=untuned(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the demo of {build} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return time.monotonic() - started, _processor_seconds() - before


def _processor_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
