"""What every command-line tool shares: exit codes, errors on one line, and the start of Paddle."""

import os
import re
import signal
import sys
from collections.abc import Callable

from yacs.config import CfgNode

from config.errors import UserError
from engine.runtime import Runtime, prepare_runtime


def start_runtime(cfg: CfgNode) -> Runtime:
    """Import Paddle as RUNTIME says and seed it; return what was chosen.

    A Ctrl-C in the midst of Paddle's import, and SIGTERM after it, would print tracebacks of their own.
    """
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
    """Return a text as the name of a folder: its letters, of any script, its digits, dots and hyphens.

    otherwise: the name for a text without any.
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or otherwise


def leave_on_sigterm() -> None:
    """Let SIGTERM end the process by an exception, so that unfinished files are removed on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and leave the process with its exit code.

    0 done; 2 a user's mistake (one line on stderr); 130 and 143 after Ctrl-C and SIGTERM; anything
    else raises and ends with 1 and a traceback.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
