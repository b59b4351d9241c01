"""Measurements and reports for all benchmarks.

The import puts the repository's root on `sys.path`, so a benchmark begins with `from _report import ...`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TUNING = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_CORETYPE")


def report(name: str, ours: float, baseline: float, goal: float, unit: str, higher_is_better: bool) -> float:
    """Print a result as one line of JSON, and return the ratio.

    `ours` and `baseline` are in `unit`. The ratio says how many times better ours is: ours / baseline if
    higher is better, else baseline / ours. `goal` is the ratio to reach. For a limit, `baseline` is the limit
    and `goal` is 1.
    """
    ratio = ours / baseline if higher_is_better else baseline / ours
    line = {"name": name, "ours": ours, "baseline": baseline, "ratio": ratio, "goal": goal, "unit": unit}
    print(json.dumps({key: _rounded(value) for key, value in line.items()}), flush=True)
    return ratio


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds_of(usual: int) -> int:
    """Return how many turns each side takes: `usual`, or fewer where ROUNDS=N in the environment says so.

    A short run shows that a script works, and about where it ends.
    """
    return min(usual, max(1, int(os.environ.get("ROUNDS", usual))))


def alternate(
    ours: Callable[[], float], baseline: Callable[[], float], rounds: int = 5
) -> tuple[float, float]:
    """Measure ours, baseline, ours, baseline, ... and return the median of each.

    By turns, other load on the machine affects both alike. Each callable returns its own measurement
    (seconds, items per second, bytes) and must be warmed up. ROUNDS=N makes the turns fewer (`rounds_of`).
    """
    measured = [(ours(), baseline()) for _ in range(rounds_of(rounds))]
    return statistics.median(pair[0] for pair in measured), statistics.median(pair[1] for pair in measured)


def run_child(script: str | Path, *arguments: str) -> dict:
    """Run a Python script in a fresh process and return the JSON object on its last line.

    The child inherits no settings of threads or math library from the environment. Raises RuntimeError, with
    the end of the child's stderr, if the child fails.
    """
    command = [sys.executable, script, *arguments]
    child = subprocess.run(command, env=untuned(), capture_output=True, text=True)
    if child.returncode != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))} ended with {child.returncode}:\n{child.stderr[-2000:]}"
        )
    return json.loads(child.stdout.splitlines()[-1])


def untuned() -> dict[str, str]:
    """Return the environment without settings of threads and math library."""
    return {name: value for name, value in os.environ.items() if name not in TUNING}


def peak_memory() -> float:
    """Return the peak resident memory of this process, in GB.

    To measure some work, do it in a child (`run_child`) that returns this number. The kernel's VmHWM is
    preferred, since a child's `ru_maxrss` starts at the size of its parent.
    """
    try:
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(kilobytes) * 1024 / 1e9
    except OSError:
        import resource

        bytes_per_unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 1e9


def _rounded(value: float | str) -> float | str:
    """Return a number rounded to four significant digits, and text as it is."""
    return float(f"{value:.4g}") if isinstance(value, int | float) else value
