"""Run command lines of the tools one after the other in this process, in which Paddle is imported once.

Each line of input is a JSON list: the tool's name, its arguments and the folder to run in. Each line of
output is an object: the exit code and what was printed. A tool is run as the interpreter runs it, but for
the import of Paddle.
"""

import dataclasses
import gc
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

from engine import runtime  # noqa: E402

prepared = runtime.prepare_runtime("cpu")


def prepare_again(
    device: str, threads: int, seed: int, deterministic: bool, local_processes: int = 1
) -> runtime.Runtime:
    """Seed everything random as the real function does; what else it does has been done."""
    runtime.flush_subnormals()  # again: ONNX Runtime switches that off
    runtime.set_seed(seed)
    return dataclasses.replace(prepared, seed=seed, deterministic=deterministic)


def run_command(name: str, arguments: list[str]) -> int:
    """Run a tool with arguments and return its exit code; a traceback goes to stderr."""
    sys.argv = [str(TOOLS / f"{name}.py"), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def run_captured(name: str, arguments: list[str], folder: str) -> dict[str, int | str]:
    """Run a tool in a folder, and return its exit code and what it wrote to stdout and stderr."""
    os.chdir(folder)
    terminal = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        os.dup2(out.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        code = run_command(name, arguments)
        # What the end of a process would undo: handlers, and through them the trainer, its files and locks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(terminal, start=1):
            os.dup2(saved, number)
            os.close(saved)
        out.seek(0)
        errors.seek(0)
        return {"returncode": code, "stdout": out.read(), "stderr": errors.read()}


if __name__ == "__main__":
    runtime.prepare_runtime = prepare_again
    for line in sys.stdin:
        print(json.dumps(run_captured(*json.loads(line))), flush=True)
