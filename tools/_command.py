"""What every command-line tool shares: exit codes, and errors on one line."""

import os
import sys
from collections.abc import Callable

from config.errors import UserError


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
