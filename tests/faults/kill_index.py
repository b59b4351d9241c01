"""Kill processes that build and change an index at random moments, and look at what is left.

    python tests/faults/kill_index.py --times 100

An index survives when it opens with everything that was acknowledged, in order, nothing half, and goes on.
"""

import argparse
import collections
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from serving.index import build
from serving.index.index import Index
from serving.index.items import Items
from tests.faults.index_job import (
    DIMENSION,
    FIRST,
    OPTIONS,
    Collection,
    apply,
    changes,
    first_collection,
    sentence,
    source_in,
)
from tests.faults.runs import LostError, expect
from tests.vector_makers import WordEncoder

JOB = Path(__file__).with_name("index_job.py")
LONGEST = 1.5  # seconds until a process is killed


def main() -> int:
    """Kill as often as asked for, print what was going on then, and return 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=100, help="(default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    arguments = parser.parse_args()
    seen: collections.Counter[str] = collections.Counter()
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.times):
            try:
                seen[kill_once(Path(folder) / str(number), arguments.seed * 100_000 + number)] += 1
            except LostError as error:
                lost += 1
                print(f"[{number}] LOST: expected: {error}", flush=True)
    for doing, times in sorted(seen.items()):
        print(f"killed while {doing}: {times} times, all survived")
    print(f"{arguments.times} times killed, {lost} lost")
    return int(lost > 0)


def kill_once(folder: Path, seed: int) -> str:
    """Kill a process that works on an index, check what is left, and return what was going on."""
    random = Random(seed)
    folder.mkdir()
    folder = folder / "index"
    building = seed % 4 == 0
    if not building:
        build.build(WordEncoder(dimension=DIMENSION), source_in(folder), folder, OPTIONS)
    lines = run_and_kill(folder, seed, ["build"] if building else [], random.uniform(0, LONGEST))
    if building and "built" not in lines:
        finish_building(folder, lines)
        doing = "building"
    else:
        doing = check_changes(folder, seed, lines)
    shutil.rmtree(folder.parent)
    return doing


def run_and_kill(folder: Path, seed: int, words: list[str], seconds: float) -> list[str]:
    """Return what a process printed until it was killed, so many seconds after it was ready."""
    command = [sys.executable, JOB, folder, str(seed), *words]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = [process.stdout.readline().strip()]
        time.sleep(seconds)
        process.kill()
        printed, _ = process.communicate()
        errors.seek(0)
        expect(process.returncode == -9, f"it works until it is killed: {errors.read()[-300:]}")
    return lines + printed.splitlines()[: None if printed.endswith("\n") else -1]


def finish_building(folder: Path, lines: list[str]) -> None:
    """Go on with a build that was killed, and compare the index with one that was not."""
    shown = [int(line.split()[1]) for line in lines if line.startswith("encoding ")]
    finished = (folder / "card.json").exists()
    if shown and not finished:
        items = Items(folder / "building")
        kept = items.state().rows
        items.close()
        expect(kept >= shown[-1], f"{shown[-1]} encoded items are kept, got {kept}")
    encoder = WordEncoder(dimension=DIMENSION)
    if not finished:
        build.build(encoder, source_in(folder), folder, OPTIONS)
        expect(not shown or encoder.encoded <= FIRST - shown[-1], "nothing is encoded again")
    compare(folder, first_collection())


def check_changes(folder: Path, seed: int, lines: list[str]) -> str:
    """Compare the index with what was acknowledged, and with the change that had begun; then go on."""
    done = sum(line.startswith("done") for line in lines)
    begun = sum(line.startswith("begins") for line in lines)
    every = changes(seed)
    acknowledged = first_collection()
    for _ in range(done):
        _, acknowledged = next(every)
    change, after = next(every)
    with Index(folder, resident=False) as index:
        found = [item.id for item in index.items()]
    whole = after if begun > done and found == list(after) else acknowledged
    if whole == acknowledged or change.kind == "describe":
        try:
            compare(folder, acknowledged)
            whole = acknowledged
        except LostError:
            if begun == done:
                raise
            whole = after
    compare(folder, whole)
    if whole is acknowledged:
        apply(folder, change, WordEncoder(dimension=DIMENSION))
        compare(folder, after)
    build.compact(folder)
    compare(folder, after)
    return {"add": "adding", "update": "updating", "delete": "deleting", "describe": "describing"}.get(
        change.kind, "compacting"
    )


def compare(folder: Path, expected: Collection) -> None:
    """Raise LostError unless the index holds what is expected, in order, and finds each of it."""
    with Index(folder) as index:
        index.verify()
        found = {item.id: item for item in index.items()}
        expect(list(found) == list(expected), f"{len(expected)} items in order, got {len(found)}")
        for identity, (item, _) in expected.items():
            expect(found[identity] == item, f"{item}, got {found[identity]}")
        vectors = WordEncoder(dimension=DIMENSION).encode_texts([sentence(n) for _, n in expected.values()])
        expect(np.array_equal(index.vectors_of(list(expected)), vectors), "the vectors that were given")
        hits = index.search(vectors[::7], 1)
        scores = [best.score for (best,) in hits]
        expect(np.allclose(scores, 1, atol=1e-5), "each item is found by its vector")
        expect(index.card.count == len(expected), "the card has the right count")


if __name__ == "__main__":
    sys.exit(main())
