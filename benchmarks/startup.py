"""Start of tools: seconds to a first training step, to an evaluation's first line, and to the help.

An evaluation prints its first line when all its imports are done. The help is that of the slowest tool. The
limits are 5, 2 and 0.3 s. The first start of each kind, which may read from the disk, is not counted.
"""

from _report import ROOT, report, untuned

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

TRAINING_LIMIT, EVALUATION_LIMIT, HELP_LIMIT = 5.0, 2.0, 0.3
ROUNDS, PATIENCE = 5, 120.0
TASK_FILE = ROOT / "configs" / "scenes" / "vsepp.yaml"


def seconds_to_first_step(data: Path, out: Path) -> float:
    """Return the seconds from the start of a training to its first logged step; then end the training."""
    log = out / "run" / "log.jsonl"
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py"]
    command += ["--cfg_file", TASK_FILE, "--overwrite"]
    command += [f"DATASET.DATA_DIR={data}", f"OUTPUT.CHECKPOINT_DIR={out}", "OUTPUT.SAVE_NAME=run"]
    command += ["MONITOR.PRINT_STEP=1"]
    log.unlink(missing_ok=True)
    started = time.time()
    process = subprocess.Popen(command, env=untuned(), stdout=subprocess.DEVNULL)
    try:
        while time.time() - started < PATIENCE:
            first = log.read_text().partition("\n") if log.is_file() else ("", "", "")
            if first[1]:
                return json.loads(first[0])["time"] - started
            if process.poll() is not None:
                raise RuntimeError(f"training ended with {process.returncode} before its first step")
            time.sleep(0.02)
        raise RuntimeError(f"no step within {PATIENCE:.0f} s")
    finally:
        process.kill()
        process.wait()


def seconds_to_first_line(tool: Path, *arguments: object) -> float:
    """Return the seconds from the start of a tool to its first line of output; then end the tool."""
    started = time.perf_counter()
    command = [sys.executable, tool, *arguments]
    with subprocess.Popen(
        command, env=untuned(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        line = process.stdout.readline()
        taken = time.perf_counter() - started
        process.kill()
    if not line:
        raise RuntimeError(f"{tool.name} ended with {process.returncode} before its first line")
    return taken


def report_median(name: str, start: Callable[[], float], limit: float) -> None:
    """Measure several starts, and report their median."""
    measured = [start() for _ in range(ROUNDS + 1)][1:]
    print(f"{name}, seconds: " + ", ".join(f"{value:.2f}" for value in measured))
    report(name, statistics.median(measured), limit, 1.0, "s", False)


def main() -> None:
    """Report the start of training, of an evaluation, and of the help of the slowest tool."""
    tools = sorted((ROOT / "tools").glob("[!_]*.py"))
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary) / "scenes", Path(temporary) / "out"
        maker = [sys.executable, ROOT / "tools" / "make_scenes.py", "--out", data]
        subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
        training = partial(seconds_to_first_step, data, out)
        report_median("start of training to its first step", training, TRAINING_LIMIT)
        evaluation = partial(seconds_to_first_line, ROOT / "tools" / "eval_retrieval.py")
        measured = partial(evaluation, "--cfg_file", TASK_FILE, f"OUTPUT.CHECKPOINT_DIR={out}")
        report_median("start of an evaluation to its first line", measured, EVALUATION_LIMIT)
    helps = {tool.name: partial(seconds_to_first_line, tool, "--help") for tool in tools}
    slowest = max(helps, key=lambda name: min(helps[name]() for _ in range(3)))
    report_median("--help of the tool that takes longest", helps[slowest], HELP_LIMIT)


if __name__ == "__main__":
    main()
