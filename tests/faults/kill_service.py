"""Kill a service at random moments while clients change its index over HTTP, and look at what is left.

    python tests/faults/kill_service.py --times 50

The service survives when its index opens with every change that a client was told is done, nothing half.
"""

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from serving.app.client import Client
from serving.bundle.bundle import Bundle
from serving.index import build
from serving.index.finishing import Options
from serving.index.index import Index
from serving.index.items import Item
from serving.index.sources import open_source
from tests.bundle_files import features_of, sentences_of, write_bundle
from tests.faults.runs import LostError, expect
from tests.served import Served

KEY = "the key of these clients"
FIRST, CLIENTS, LONGEST = 100, 3, 3.0  # items at first, clients that write, seconds until it is killed
GONE = (OSError, http.client.HTTPException)  # what a client sees of a service that was killed


def main() -> int:
    """Kill as often as asked for, and return 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50, help="(default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    arguments = parser.parse_args()
    lost = acknowledged = 0
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
        for number in range(arguments.times):
            try:
                acknowledged += kill_once(made, Path(folder) / str(number), arguments.seed * 100_000 + number)
            except LostError as error:
                lost += 1
                print(f"[{number}] LOST: expected: {error}", flush=True)
    print(f"{arguments.times} times killed under {acknowledged} acknowledged changes, {lost} lost")
    return int(lost > 0)


def make(folder: Path) -> Path:
    """Make a bundle, an index of FIRST items and a key, and return their folder."""
    made = folder / "made"
    made.mkdir()
    bundle, sentences = write_bundle(made / "bundle"), sentences_of(FIRST)
    np.save(made / "test_ims.npy", features_of(sentences))
    lines = [json.dumps({"id": f"f{row}", "caption": text}) for row, text in enumerate(sentences)]
    (made / "captions.jsonl").write_text("\n".join(lines))
    np.savetxt(made / "test_ids.txt", [f"f{row}" for row in range(FIRST)], fmt="%s")
    source = open_source(made / "test_ims.npy", made / "captions.jsonl")
    build.build(Bundle.open(bundle), source, made / "index", Options(bundle_folder=str(bundle)))
    (made / "key.txt").write_text(KEY)
    return made


class Writer(threading.Thread):
    """A client that adds, updates, describes and deletes items of its own until the service is gone.

    `known` has what the service acknowledged, by id (None: deleted), and `asked` what it was asked last, and
    did not answer: that may have happened or not.
    """

    def __init__(self, address: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._client = Client(address, KEY, attempts=100)
        self._number, self._random = number, Random(seed * 10 + number)
        self.known: dict[str, Item | None] = {}
        self.sentences: dict[str, str] = {}
        self.asked: tuple[str, Item | None] | None = None
        self.done = 0

    def run(self) -> None:
        sentences = sentences_of(FIRST)
        while True:
            there = [name for name, item in self.known.items() if item]
            kind = self._random.choice(["put", "put", "update", "describe", "delete"]) if there else "put"
            name = f"w{self._number}_{len(self.known)}" if kind == "put" else self._random.choice(there)
            text = self._random.choice(sentences)
            item = None if kind == "delete" else Item(name, text, {"change": self.done})
            self.asked = name, item
            try:
                if kind == "delete":
                    self._client.delete(name)
                elif kind == "describe":
                    self._client.describe(name, text, item.metadata)
                else:
                    features = features_of([text])[0].tolist()
                    self._client.put(name, caption=text, metadata=item.metadata, features=features)
            except GONE:
                return
            self.known[name], self.asked = item, None
            if kind in ("put", "update"):
                self.sentences[name] = text
            self.done += 1


def kill_once(made: Path, folder: Path, seed: int) -> int:
    """Kill a service under clients that write, check its index, and return what it acknowledged: a number."""
    folder.mkdir()
    shutil.copytree(made / "index", folder / "index")
    service = Served(folder, "--index", folder / "index", "--key_file", made / "key.txt")
    writers = [Writer(service.address, number, seed) for number in range(CLIENTS)]
    for writer in writers:
        writer.start()
    time.sleep(Random(seed).uniform(0.2, LONGEST))
    service.process.kill()
    service.process.wait()
    service.process.stdout.close()
    service.log.close()
    for writer in writers:
        writer.join(60)
        expect(not writer.is_alive(), "clients notice that the service is gone")
    bundle = Bundle.open(made / "bundle")
    with Index(folder / "index", writable=True) as index:
        index.verify()
        items = list(index.items())
        expect(len({item.id for item in items}) == len(items), "each item is there once")
        first = {item.id for item in items if item.id.startswith("f")}
        expect(len(first) == FIRST, f"the {FIRST} items of before are there, got {len(first)}")
        found = {item.id: item for item in items}
        for writer in writers:
            compare(writer, found, index, bundle)
        index.add([Item("new")], bundle.encode_features(features_of(["a red dog"])))  # and it goes on
    shutil.rmtree(folder)
    return sum(writer.done for writer in writers)


def compare(writer: Writer, found: dict[str, Item], index: Index, bundle: Bundle) -> None:
    """Raise LostError unless an index has what a writer was told; the last change may be there or not."""
    unsure = writer.asked[0] if writer.asked else None
    for name, item in writer.known.items():
        if name != unsure:
            expect(found.get(name) == item, f"{name} is {item}, got {found.get(name)}")
    if unsure:
        allowed = [writer.known.get(unsure), writer.asked[1]]
        expect(found.get(unsure) in allowed, f"{unsure} is one of {allowed}, got {found.get(unsure)}")
    sure = [name for name, item in writer.known.items() if item and name != unsure]
    if sure:
        features = features_of([writer.sentences[name] for name in sure])
        close = np.abs(index.vectors_of(sure) - bundle.encode_features(features)).max() < 1e-5
        expect(bool(close), "vectors are those of the pictures that were sent")


if __name__ == "__main__":
    sys.exit(main())
