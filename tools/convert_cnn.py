"""Convert the weights of a CNN: an earlier name of tools/convert_weights.py, which does it.

python tools/convert_cnn.py NETWORK SRC OUT = python tools/convert_weights.py SRC OUT --network NETWORK
"""

import sys

import _init_paths  # noqa: F401
from _command import run

import convert_weights


def main() -> int:
    """Move the network's name, which came first, to its option, and convert."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1:] = [*sys.argv[2:], "--network", sys.argv[1]]
    return convert_weights.main()


if __name__ == "__main__":
    run(main)
