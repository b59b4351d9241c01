"""Generate Scenes, a data set of drawn pictures with captions, regions, tags and classes (docs/scenes.md)."""

import _init_paths  # noqa: F401

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from _command import run
from config.errors import UserError
from datasets.scenes import ScenesOptions, make_scenes

_HELP = {
    "train": "images of the training split",
    "dev": "images of the split that chooses the best checkpoint",
    "test": "images of the test split",
    "seed": "the same seed gives the same bytes",
    "image_size": "width and height of a picture in pixels",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Report a wrong command line on one line."""
        raise UserError(f"{message}: see --help")


def main() -> None:
    """Parse the command line and generate."""
    parser = _Parser(description=__doc__)
    for field in fields(ScenesOptions):
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{_HELP[field.name]} (%(default)s)"
        )
    parser.add_argument("--out", type=Path, default=Path("data/scenes"), help="folder to write (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an existing Scenes folder")
    arguments = parser.parse_args()
    options = ScenesOptions(**{field.name: getattr(arguments, field.name) for field in fields(ScenesOptions)})
    with tqdm(
        total=options.train + options.dev + options.test, unit="image", desc="Scenes", disable=None
    ) as bar:
        made = make_scenes(
            arguments.out, options, force=arguments.force, processes=os.cpu_count() or 1, progress=bar.update
        )
    sizes = f"{options.train}/{options.dev}/{options.test}"
    what = f"{sizes} images of {options.image_size} pixels, seed {options.seed}"
    print(f"{arguments.out}: {what}" if made else f"{arguments.out}: already there ({what})")


if __name__ == "__main__":
    run(main)
