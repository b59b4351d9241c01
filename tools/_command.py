"""Shared by all command-line tools: exit codes, errors on one line, and the start of Paddle."""

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from config.errors import UserError

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from engine.runtime import Runtime


def start_runtime(cfg: "CfgNode") -> "Runtime":
    """Import Paddle as RUNTIME says, seed it, and return the device, threads and seed that were chosen."""
    from engine.runtime import prepare_runtime  # not at the top: some tools run where Paddle and yacs are not

    # During its import Paddle answers Ctrl-C, and after its import SIGTERM, with tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime = prepare_runtime(
        device=cfg.RUNTIME.DEVICE,
        threads=cfg.RUNTIME.THREADS,
        seed=cfg.MISC.SEED,
        deterministic=cfg.RUNTIME.DETERMINISTIC,
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return runtime


def folder_name(text: str, otherwise: str) -> str:
    """Return `text` as the name of a folder, made of letters of any script, digits, dots and hyphens.

    All other characters become underscores. `otherwise` is the name for a text that has none of the former.
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or otherwise


def leave_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit with exit code 143, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and end the process with its exit code, 0 if it returns None.

    A user's mistake gives exit code 2 and one line on stderr. Ctrl-C gives 130, SIGTERM 143. A closed stdout
    gives 1, and so does any other exception, with a traceback.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = 130
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
