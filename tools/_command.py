"""Shared by all command-line tools: exit codes, errors on one line, and the start of Paddle."""

import argparse
import contextlib
import errno
import faulthandler
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
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
        products=cfg.RUNTIME.PRODUCTS,
        precision=cfg.RUNTIME.PRECISION,
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_at_crashes()
    return runtime


def _end_at_crashes() -> None:
    """Let a crash of compiled code end the process, and tell the lines of Python that led there.

    Paddle's own report takes memory: where a crash had damaged it, the process hung, and no supervisor saw
    that it had ended.
    """
    import paddle

    paddle.disable_signal_handler()
    faulthandler.enable(file=2)  # sys.stderr may be no file


def folder_name(text: str, otherwise: str) -> str:
    """Return `text` as the name of a folder, made of letters of any script, digits, dots and hyphens.

    All other characters become underscores. `otherwise` is the name for a text that has none of the former.
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or otherwise


def leave_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit with exit code 143, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextlib.contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name the command-line option to which the user's mistakes in a `with` block go back."""
    try:
        yield
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith("--") else f"{option}: {message}") from error


def add_gallery_arguments(parser: argparse.ArgumentParser, choice: argparse._ActionsContainer) -> None:
    """Add `--gallery`, one of several ways to name pictures, to `choice`, and `--backbone` to `parser`."""
    choice.add_argument(
        "--gallery",
        metavar="FILE_OR_FOLDER",
        help="a feature file (.h5, .npy, .tsv), a folder with one, a folder with a .npy for each image, or "
        "photos (a folder or a zip file); instead of EVAL.SPLIT",
    )
    parser.add_argument(
        "--backbone",
        metavar="F",
        help="YAML file of the network that makes features of pictures (default: as the feature file says)",
    )


def read_queries(path: Path) -> list[str]:
    """Return the sentences of a file, one a line; raise UserError that names a line without any."""
    from datasets.text_files import read_lines

    if not path.is_file():
        raise UserError(f"--queries: {path}: no such file, expected a sentence a line")
    return read_lines(path, "query")


def run(main: Callable[[], int | None], goes_on: str = "") -> None:
    """Call `main` and end the process with its exit code, 0 if it returns None.

    `goes_on` tells, after Ctrl-C, how the work goes on.

    A user's mistake, or a disk that takes no more output, gives exit code 2 and one line on stderr. Ctrl-C
    gives 130, SIGTERM 143. A closed stdout gives 1, and so does any other exception, with a traceback.
    """
    try:
        code = main() or 0
        print(end="", flush=True)  # here, where what it raises is told in one line
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    except KeyboardInterrupt:
        print(f"interrupted{goes_on and ': '}{goes_on}", file=sys.stderr, flush=True)
        code = 130
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`
        _forget_output()
        code = 1
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _forget_output()
        print(
            f"error: cannot write the output: {error.strerror}: send it elsewhere",
            file=sys.stderr,
            flush=True,
        )
        code = 2
    sys.exit(code)


def _forget_output() -> None:
    """Let what Python still holds of the output go nowhere, since it is written once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
