"""Check the folder of a data set before hours are spent: files, shapes, counts, order, leaks between splits.

    python tools/check_data.py --cfg_file configs/f30k/vsepp.yaml
    python tools/check_data.py --cfg_file configs/coco/vsrn.yaml DATASET.DATA_DIR=path/to/coco_precomp

The tool reads the splits DATASET.TRAIN, DEV and TEST as training with this task file would, and prints all
that is wrong, each on a line; then the exit code is 2. It also notes what is right but surprises many. Every
feature is read once, block by block, for NaN, rows of zeros, and images that two splits share; --skip_values
leaves this out. With MODEL.CNN the headers of the pictures are read.
"""

import argparse
import sys

import _init_paths  # noqa: F401
from _command import run
from _progress import progress_display

from config.load import add_config_arguments, config_from_arguments


def main() -> int:
    """Parse the command line, check, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--skip_values", action="store_true", help="read names, shapes and captions alone")
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    from datasets.build.checks import check_data

    with progress_display() as show:
        found = check_data(cfg, not arguments.skip_values, show)
    for line in found.facts:
        print(line)
    for line in found.notes:
        print(f"note: {line}")
    for line in found.wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if found.wrong:
        print(f"error: {cfg.DATASET.DATA_DIR}: wrong lines: {len(found.wrong)}", file=sys.stderr)
        return 2
    print(f"{cfg.DATASET.DATA_DIR}: nothing is wrong")
    return 0


if __name__ == "__main__":
    run(main)
