"""The option --unreadable of the tools that index a folder of pictures."""

import argparse
from pathlib import Path

from _progress import progress_display

from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import describe_unreadable
from datasets.pictures.readable import find_unreadable


def add_unreadable_option(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command line."""
    parser.add_argument(
        "--unreadable",
        choices=("refuse", "skip"),
        default="refuse",
        help="pictures of a folder that cannot be read: stop at the first (default), or look at all pictures "
        "beforehand and leave these out",
    )


def pictures_left_out(gallery: str | Path, unreadable: str) -> set[str]:
    """Return the pictures of a folder that are left out, and name them; none if the gallery is no folder."""
    if unreadable == "refuse" or not Path(gallery).is_dir():
        return set()
    with progress_display() as show:
        problems = find_unreadable(PictureFiles(gallery), show)
    for line in describe_unreadable(problems):
        print(line)
    return set(problems)
