"""Start of training: seconds from the command to the first finished step, on Scenes.

The limit is 5 s; the first start of each kind, which may read the disk, is not counted.
"""

from _report import ROOT, TUNING, report

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT, ROUNDS, PATIENCE = 5.0, 5, 120.0


def seconds_to_first_step(data: Path, out: Path) -> float:
    """Start a training, wait for its first logged step, end it, and return when that step was done."""
    log = out / "run" / "log.jsonl"
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py"]
    command += ["--cfg_file", ROOT / "configs" / "scenes" / "vsepp.yaml", "--overwrite"]
    command += [f"DATASET.DATA_DIR={data}", f"OUTPUT.CHECKPOINT_DIR={out}", "OUTPUT.SAVE_NAME=run"]
    command += ["MONITOR.PRINT_STEP=1"]
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    log.unlink(missing_ok=True)
    started = time.time()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
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


def main() -> None:
    """Measure several starts and report their median."""
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary) / "scenes", Path(temporary) / "out"
        maker = [sys.executable, ROOT / "tools" / "make_scenes.py", "--out", data]
        subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
        measured = [seconds_to_first_step(data, out) for _ in range(ROUNDS + 1)][1:]
    print("seconds to the first step: " + ", ".join(f"{value:.2f}" for value in measured))
    report("start of training to its first step", statistics.median(measured), LIMIT, 1.0, "s", False)


if __name__ == "__main__":
    main()
