"""Add, update and delete items of an index, compact it, and look whether it is whole.

    python tools/change_index.py --index out/photos.index --add more_photos/
    python tools/change_index.py --index out/photos.index --add more_photos/ --update
    python tools/change_index.py --index out/photos.index --delete 0001.jpg 0002.jpg
    python tools/change_index.py --index out/photos.index --describe about.jsonl
    python tools/change_index.py --index out/photos.index --compact
    python tools/change_index.py --index out/photos.index --check

Searches go on meanwhile, and find what a command has printed as done. --describe takes objects of "id",
"caption" and "metadata", a line each, which replace what an item had; a key that is not given stays, and
"caption": "" or "metadata": {} clears. --update keeps captions and metadata, unless --captions has others.
--compact gives back the space of
deleted items, and lets the engine hold what was added. --drop_previous deletes what was there before the
model changed.
"""

import argparse
from pathlib import Path

import _init_paths  # noqa: F401
from _backbone import extract
from _command import leave_on_sigterm, run
from _progress import progress_display
from _unreadable import add_unreadable_option, pictures_left_out

from config.arguments import report_errors_on_one_line
from config.errors import UserError
from serving.index import build
from serving.index.address import milvus_address, open_index
from serving.index.card import bundle_folder, read_card
from serving.index.index import Index
from serving.index.items import AlreadyThereError, Item
from serving.index.sources import open_source, read_descriptions

TOGETHER = 256  # items that are added in one step


def main() -> None:
    """Parse the command line and change the index."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.add_argument(
        "--index", metavar="INDEX", required=True, help="a folder, or the address of a Milvus"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--add", metavar="FOLDER|FILE", help="pictures, features or captions")
    action.add_argument("--delete", nargs="+", metavar="ID", help="items to delete")
    action.add_argument("--describe", metavar="FILE", type=Path, help="captions and metadata, .jsonl")
    action.add_argument("--compact", action="store_true", help="write it anew without what was deleted")
    action.add_argument("--check", action="store_true", help="read everything and compare the checksums")
    action.add_argument("--drop_previous", action="store_true", help="delete what --from has kept")
    parser.add_argument("--captions", metavar="FILE", help="sentences and metadata of what is added")
    parser.add_argument("--update", action="store_true", help="--add replaces items that are there")
    parser.add_argument("--bundle", metavar="DIR", help="(default: the one that the card names)")
    add_unreadable_option(parser)
    arguments = parser.parse_args()
    leave_on_sigterm()
    in_milvus = milvus_address(arguments.index)
    if arguments.compact and in_milvus:
        raise UserError("--compact: a Milvus does that by itself")
    if arguments.compact or arguments.drop_previous and not in_milvus:
        folder = Path(arguments.index)
        with progress_display() as show:
            print(f"{folder}: {describe_change(arguments, folder, show)}")
        return
    with open_index(arguments.index, writable=not arguments.check, resident=False) as index:
        if arguments.check:
            index.verify()
            print(f"{arguments.index}: whole; {index.card.describe()}")
        elif arguments.drop_previous:
            index.drop_previous()
            print(f"{arguments.index}: the previous data are deleted")
        elif arguments.delete:
            index.delete(arguments.delete)
            print(f"{arguments.index}: {len(set(arguments.delete))} deleted; {index.card.describe()}")
        elif arguments.describe:
            items = described(index, arguments.describe)
            index.describe(items)
            print(f"{arguments.index}: {len(items)} described")
        else:
            added, updated = add(index, arguments)
            of_them = f", {updated} of them updated" if updated else ""
            print(f"{arguments.index}: {added} added{of_them}; {index.card.describe()}")


def described(index: Index, path: Path) -> list[Item]:
    """Return the items that a file describes; what a line does not give is as the index has it."""
    lines = read_descriptions(path)
    before = {item.id: item for item in index.described([item.id for item, _ in lines])}
    return [kept(item, before.get(item.id), given) for item, given in lines]


def describe_change(arguments: argparse.Namespace, folder: Path, show) -> str:
    """Compact the index, or delete its previous data; return what was done."""
    if arguments.compact:
        return f"compacted; {build.compact(folder, show=show).describe()}"
    build.drop_previous(folder)
    return f"the previous data are deleted; {read_card(folder).describe()}"


def add(index: Index, arguments: argparse.Namespace) -> tuple[int, int]:
    """Encode and add what --add names; return how many items that is, and how many of them were there."""
    from serving.bundle.bundle import Bundle

    bundle = Bundle.open(bundle_folder(index.card, arguments.bundle), extract=extract)
    index.check_bundle(bundle.identity)
    left_out = pictures_left_out(arguments.add, arguments.unreadable)
    source = open_source(arguments.add, arguments.captions, left_out=left_out)
    if source.holds != index.card.holds:
        raise UserError(f"{source.path}: {source.holds}, and {arguments.index} holds {index.card.holds}")
    total, updated = len(source.items), 0
    with progress_display() as show:
        for start in range(0, total, TOGETHER):
            part = slice(start, start + TOGETHER)
            items = source.items[part]
            if arguments.update:
                there = {item.id: item for item in index.described([item.id for item in items])}
                updated += len(there)
                items = [kept(item, there.get(item.id), brought(item)) for item in items]
            vectors = source.encode(bundle, part)
            try:
                index.add(items, vectors, replace=arguments.update)
            except AlreadyThereError as error:
                raise UserError(f"{error} (--add with --update, or --delete ID)") from error
            show("adding", min(start + TOGETHER, total), total)
    return total, updated


def brought(item: Item) -> set[str]:
    """Return which of caption and metadata an item has."""
    return {name for name in ("caption", "metadata") if getattr(item, name)}


def kept(item: Item, before: Item | None, given: set[str]) -> Item:
    """Return an item with the caption and metadata that it had `before`, but for those that are `given`."""
    if before is None:
        return item
    caption = item.caption if "caption" in given else before.caption
    return Item(item.id, caption, item.metadata if "metadata" in given else before.metadata)


if __name__ == "__main__":
    run(main)
