"""Write the lists of Stanford Online Products for metric learning: full, half and tiny.

    python tools/prepare_sop.py data/Stanford_Online_Products
    python tools/prepare_sop.py data/Stanford_Online_Products --out data/sop_lists

DIR is the unpacked Stanford_Online_Products.zip, with Ebay_train.txt and Ebay_test.txt. The tool writes
train.txt and test.txt, and their first lines as train_half.txt, test_half.txt, train_tiny.txt and
test_tiny.txt; a line is a picture's path and its class. It checks the numbers of pictures and classes:
59,551 and 60,502 pictures of 11,318 and 11,316 classes; 29,437 and 30,003 of 5,184 each; 1,012 and 1,048 of
160 each.
"""

import argparse
import contextlib
import os
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from config.files.whole import replacing
from datasets.pictures.lists import read_list

# The number of pictures and of classes in each list, by the file that its lines come from.
LISTS = {
    "Ebay_train.txt": {
        "train.txt": (59_551, 11_318),
        "train_half.txt": (29_437, 5_184),
        "train_tiny.txt": (1_012, 160),
    },
    "Ebay_test.txt": {
        "test.txt": (60_502, 11_316),
        "test_half.txt": (30_003, 5_184),
        "test_tiny.txt": (1_048, 160),
    },
}


def main() -> None:
    """Parse the command line, read both lists, check them, and write the splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the unpacked Stanford_Online_Products")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the lists (default: DIR)")
    arguments = parser.parse_args()
    folder = arguments.folder
    if folder.is_file():
        raise UserError(f"{folder}: expected a folder, got a file: unpack it, and name the folder")
    texts = {}
    for source, lists in LISTS.items():
        rows = [(each.path, each.label) for each in read_list(folder / source)]
        for name, (pictures, classes) in lists.items():
            texts[name] = first_rows(rows, pictures, classes, folder / source)
        check_pictures(folder, rows, folder / source)
    write_lists(arguments.out or folder, texts)


def first_rows(rows: list[tuple[str, str]], pictures: int, classes: int, source: Path) -> str:
    """Return the first `pictures` rows as text.

    Raises UserError unless they are of `classes` classes and `source` has as many rows as its largest list.
    """
    chosen = rows[:pictures]
    found = len({label for _, label in chosen})
    in_all = max(count for count, _ in LISTS[source.name].values())
    if (len(rows), found) != (in_all, classes):
        raise UserError(
            f"{source}: {len(rows):,} pictures, the first {len(chosen):,} of {found:,} classes, expected "
            f"{in_all:,}, and {classes:,} classes: unpack Stanford_Online_Products.zip again"
        )
    return "".join(f"{name} {label}\n" for name, label in chosen)


def check_pictures(folder: Path, rows: list[tuple[str, str]], source: Path) -> None:
    """Raise `UserError` with the name of the first picture that is missing, if any is."""
    parents = {os.path.dirname(name) for name, _ in rows}
    there = {parent: _names_in(folder / parent) for parent in parents}
    for number, (name, _) in enumerate(rows, start=2):
        parent, file_name = os.path.split(name)
        if file_name not in there[parent]:
            raise UserError(
                f"{source} line {number}: there is no picture {folder / name}: unpack "
                "Stanford_Online_Products.zip again"
            )


def _names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def write_lists(folder: Path, texts: dict[str, str]) -> None:
    """Write all lists, each to a draft that is renamed when all are complete, and print their sizes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as drafts:
            for name, text in texts.items():
                drafts.enter_context(replacing(folder / name)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}: name another with --out"
        ) from error
    for source, lists in LISTS.items():
        for name, (pictures, classes) in lists.items():
            print(f"{folder / name}: {pictures:,} pictures of {classes:,} classes, from {source}")


if __name__ == "__main__":
    run(main)
