"""Put the repository's root on `sys.path`, so that a tool can be run in any folder.

Every tool imports this before NumPy, whose kernels are chosen here.

A package that is not installed ends a tool with one line, as all that a user can mend does.
"""

import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from config.machine.numpy_kernels import choose_numpy_kernels

choose_numpy_kernels()


def tell_missing_package(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an exception that nothing caught; a missing package in one line, with exit code 2."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if name is None or "." in name or (ROOT / name).is_dir() or (ROOT / "tools" / f"{name}.py").is_file():
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"error: {name} is not installed here: source .venv/bin/activate (make demo makes it), or "
        "pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(2)


sys.excepthook = tell_missing_package
