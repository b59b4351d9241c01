"""A side that trains with the build in the folder ROOT: `python _steps_of.py train vsepp FOLDER ROOT PAIRS`.

It imports nothing of the build that it lies in. PAIRS are the pairs of a step.
"""

import dataclasses
import sys
from pathlib import Path


def main() -> None:
    *_, root, pairs = sys.argv
    del sys.argv[4:]
    sys.path[0] = str(Path(root) / "benchmarks")
    import _ours
    from _race import SETTINGS

    SETTINGS["vsepp"] = dataclasses.replace(SETTINGS["vsepp"], batch=int(pairs))
    _ours.main()


if __name__ == "__main__":
    main()
