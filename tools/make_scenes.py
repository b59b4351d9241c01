"""Generate Scenes, a data set of drawn pictures with captions, regions, tags and classes (docs/scenes.md).

    python tools/make_scenes.py
    python tools/make_scenes.py --train 20000 --dev 1000 --test 1000 --seed 1 --image_size 160 --out data/more

The same options give the same bytes. A folder that already holds the data set is left as it is.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run
from _progress import progress_display

from config.arguments import report_errors_on_one_line
from datasets.scenes.generate import ScenesOptions, make_scenes
from engine.runtime import usable_cores

_HELP = {
    "train": "images of the training split",
    "dev": "images of the split that chooses the best checkpoint",
    "test": "images of the test split",
    "seed": "seed of all random numbers",
    "image_size": "width and height of a picture in pixels",
}


def main() -> None:
    """Parse the command line and generate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    for field in fields(ScenesOptions):
        parser.add_argument(
            f"--{field.name}",
            type=int,
            default=field.default,
            metavar="N",
            help=f"{_HELP[field.name]} (default %(default)s)",
        )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("data/scenes"),
        help="folder to write (default %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace other Scenes in that folder")
    arguments = parser.parse_args()
    options = ScenesOptions(**{field.name: getattr(arguments, field.name) for field in fields(ScenesOptions)})
    leave_on_sigterm()
    with progress_display() as show:
        made = make_scenes(arguments.out, options, arguments.force, usable_cores(), show)
    sizes = f"{options.train}/{options.dev}/{options.test}"
    what = f"{sizes} images of {options.image_size} pixels, seed {options.seed}"
    print(f"{arguments.out}: {what}" if made else f"{arguments.out}: already there ({what})")


if __name__ == "__main__":
    run(main)
