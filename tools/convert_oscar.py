"""Convert a folder or lists of Oscar or VinVL: an earlier name of tools/convert_weights.py, which does it.

python tools/convert_oscar.py SRC OUT     is     python tools/convert_weights.py SRC OUT
"""

import _init_paths  # noqa: F401
from _command import run
from convert_weights import main

if __name__ == "__main__":
    run(main)
