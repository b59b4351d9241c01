"""A process that builds an index, and then changes it for ever, saying what is done; tests kill it.

python tests/faults/index_job.py FOLDER SEED [build]
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from serving.index import build
from serving.index.finishing import Options
from serving.index.index import Index
from serving.index.items import Item
from serving.index.sources import Source, open_source
from tests.vector_makers import WordEncoder

DIMENSION, FIRST = 24, 120
KINDS = ["add", "add", "update", "delete", "describe", "compact"]
OPTIONS = Options("int8")


@dataclass(frozen=True)
class Change:
    """One step: its kind, and the items that it gives, with the numbers of their vectors, or deletes."""

    kind: str
    items: tuple[Item, ...] = ()
    numbers: tuple[int, ...] = ()


Collection = dict[str, tuple[Item, int]]  # ids -> items and the numbers of their vectors, in their order


def first_collection() -> Collection:
    """Return what the index holds when it has been built."""
    return {str(row + 1): (Item(str(row + 1), sentence(row)), row) for row in range(FIRST)}


def sentence(number: int) -> str:
    """Return the sentence whose vector has this number."""
    return f"word{number} word{number * 7 % 31} word{number % 5}"


def changes(seed: int) -> Iterator[tuple[Change, Collection]]:
    """Yield changes for ever, each with the collection behind it; a seed gives the same ones every time."""
    random, collection, fresh = Random(seed), first_collection(), FIRST
    while True:
        kind, many = random.choice(KINDS), random.randint(1, 20)
        collection = dict(collection)
        if kind == "add":
            items = tuple(Item(f"new{fresh + n}", None, {"n": fresh + n}) for n in range(many))
            change = Change(kind, items, tuple(range(fresh, fresh + many)))
        elif kind == "compact" or len(collection) < 40:
            change = Change("compact")
        else:
            ids = random.sample(sorted(collection), many)
            items = tuple(Item(each, f"caption {fresh}", {"n": fresh}) for each in ids)
            change = Change(kind, items, tuple(range(fresh, fresh + many)))
        fresh += many
        for place, item in enumerate(change.items):
            number = collection[item.id][1] if kind == "describe" else change.numbers[place]
            if kind in ("update", "delete"):
                del collection[item.id]
            if kind != "delete":
                collection[item.id] = item, number
        yield change, collection


def apply(folder: Path, change: Change, encoder: WordEncoder) -> None:
    """Change the index in `folder`."""
    if change.kind == "compact":
        build.compact(folder)
        return
    with Index(folder, writable=True, resident=False) as index:
        if change.kind == "delete":
            index.delete([item.id for item in change.items])
        elif change.kind == "describe":
            index.describe(change.items)
        else:
            vectors = encoder.encode_texts([sentence(number) for number in change.numbers])
            index.add(change.items, vectors, replace=change.kind == "update")


def source_in(folder: Path) -> Source:
    """Return the captions that the index is built from, in a file beside `folder`."""
    path = folder.with_suffix(".txt")
    if not path.exists():
        path.write_text("".join(f"{sentence(row)}\n" for row in range(FIRST)))
    return open_source(path)


def main() -> None:
    """Build if that is asked for, then change the index; a line says each time what begins or is done."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    build._BLOCKS["captions"] = 4  # so that there are many moments between them
    encoder = WordEncoder(dimension=DIMENSION)
    print("ready", flush=True)
    if sys.argv[3:] == ["build"]:
        build.build(encoder, source_in(folder), folder, OPTIONS, lambda *stage: print(*stage, flush=True))
        print("built", flush=True)
    for number, (change, _) in enumerate(changes(seed)):
        print("begins", number, change.kind, flush=True)
        apply(folder, change, encoder)
        print("done", number, change.kind, flush=True)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
