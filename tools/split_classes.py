"""Divide a folder of pictures by class, so that a model is tested on classes that it never saw.

    python tools/split_classes.py data/ucm/images data/ucm/classes --train 11 --dev 4 --test 6
    python tools/split_classes.py data/omniglot data/omniglot --train images_background_small1 \\
        --dev Tagalog --test "Japanese_(katakana)" Sanskrit

IMAGES is a folder, or a zip file of one, in which each folder of pictures is a class. The tool writes
train.txt, dev.txt and test.txt into OUT, for DATASET.LABEL_FILE; a line is a picture's path and its class. A
split is given as a number of classes, which are drawn at random, or as names of folders, whose classes it
takes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import _init_paths  # noqa: F401
from _command import run

import numpy as np

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import write_whole
from datasets.pictures.lists import LabelledPictures, class_folders
from datasets.pictures.files import PictureFiles

SPLITS = ("train", "dev", "test")


def main() -> None:
    """Parse the command line, choose the classes, and write the lists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder or zip file of the pictures")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the lists")
    for split in SPLITS:
        help_text = f"number of classes in {split}.txt, or names of folders"
        parser.add_argument(f"--{split}", metavar="N", nargs="+", required=True, help=help_text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draw (default: 0)")
    arguments = parser.parse_args()
    pictures = class_folders(PictureFiles(arguments.images))
    wanted = {split: list(getattr(arguments, split)) for split in SPLITS}
    for split, classes in choose(pictures.class_names, wanted, arguments.seed).items():
        print(write_list(arguments.out / f"{split}.txt", pictures, classes))


def choose(names: Sequence[str], wanted: dict[str, list[str]], seed: int) -> dict[str, list[int]]:
    """Return the classes of each split as indices into `names`, the names of all classes.

    Raises UserError for a split without classes, for a class in two splits, and if more classes are asked for
    than are left.
    """
    chosen = {
        split: [place for place, name in enumerate(names) if set(PurePosixPath(name).parts) & set(folders)]
        for split, folders in wanted.items()
        if not _is_number(folders)
    }
    for split, classes in chosen.items():
        if not classes:
            raise UserError(
                f"--{split}: no class lies in {' or '.join(wanted[split])}, such as {names[0]} does"
            )
    taken = [place for classes in chosen.values() for place in classes]
    if len(set(taken)) < len(taken):
        twice = names[next(place for place in taken if taken.count(place) > 1)]
        raise UserError(f"class {twice} is in two splits, expected each in one: name folders further inside")
    rest = np.setdiff1d(np.arange(len(names)), taken)
    free = np.random.default_rng(seed).permutation(rest).tolist()
    for split, folders in wanted.items():
        if split not in chosen:
            count = int(folders[0])
            if not 1 <= count <= len(free):
                raise UserError(
                    f"--{split}: expected 1 to {len(free)} classes, those that are left, got {count}"
                )
            chosen[split], free = sorted(free[:count]), free[count:]
    return {split: chosen[split] for split in SPLITS}


def _is_number(folders: list[str]) -> bool:
    return len(folders) == 1 and folders[0].isdecimal()


def write_list(path: Path, pictures: LabelledPictures, classes: list[int]) -> str:
    """Write the list of the pictures of `classes`; return a line that describes the file."""
    kept = set(classes)
    lines = [
        f"{name} {'_'.join(pictures.class_names[label].split())}"
        for name, label in zip(pictures.names, pictures.labels.tolist(), strict=True)
        if label in kept
    ]
    write_whole(path, "\n".join(lines) + "\n", "name another folder")
    return f"{path}: {len(lines)} pictures of {len(classes)} classes"


if __name__ == "__main__":
    run(main)
