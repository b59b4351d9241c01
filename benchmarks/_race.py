"""Ours against the PyTorch twin: one corpus, a process for each side, and turns.

A corpus has 4096 random features an image, five captions an image, 8 to 20 words a caption: RSICD's and
Flickr30k's own captions, where `../shared` (or RETRIEVAL_SHARED) holds them, and words drawn at random from
10,000. The latter are the worst case for ours, which computes what captions begin with once.
"""

from _report import ROOT, TUNING, alternate, peak_memory, report

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.text import tokenize

HERE = Path(__file__).resolve().parent
CAPTIONS_PER_IMAGE, FEATURE_DIM, WORD_DIM, EMBED_DIM, BATCH = 5, 4096, 300, 1024, 128
FEWEST_WORDS, MOST_WORDS, RANDOM_VOCABULARY = 8, 20, 10_000
WEIGHTS, OURS, TWIN = "weights.npz", "ours.npy", "twin.npy"  # what sides leave in the folder
ROUNDS, STEPS = 5, 6  # turns of each side, and training steps in a turn


class Side:
    """A process that measures itself once a turn: a line in, a line of JSON out."""

    def __init__(self, script: str, task: str, model: str, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in TUNING}
        command = [sys.executable, str(HERE / script), task, model, str(folder)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Side":
        self.turn()  # warms up
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def turn(self) -> dict:
        """Let the process measure; raises RuntimeError where it has ended."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")
        return json.loads(line)


def race(task: str, model: str, images: int, goal: float, claim: str) -> None:
    """Let both sides take turns on each corpus and report pairs/s, real captions last.

    `task` is train or encode, `model` vsepp or vse.
    """
    for corpus, captions in corpora(task, images * CAPTIONS_PER_IMAGE).items():
        print(f"{corpus}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder), captions)
            measured = take_turns(task, model, Path(folder))
        report(f"{claim}, {corpus}", *measured, goal=goal, unit="pairs/s", higher_is_better=True)


def take_turns(task: str, model: str, folder: Path) -> tuple[float, float]:
    """Return the median pairs/s of ours and of the twin.

    Raises RuntimeError where they embed captions differently.
    """
    # The twin starts when ours has left its weights.
    with Side("_ours.py", task, model, folder) as ours, Side("_twins.py", task, model, folder) as twin:
        if task == "encode":
            difference = np.abs(np.load(folder / OURS) - np.load(folder / TWIN)).max()
            print(f"largest difference of the embeddings: {difference:.1e}", flush=True)
            if difference > 1e-5:
                raise RuntimeError("ours and the twin disagree: there is nothing to compare")
        return alternate(lambda: show("ours", ours.turn()), lambda: show("twin", twin.turn()), ROUNDS)


def show(side: str, measured: dict) -> float:
    print(f"{side}: {measured['pairs_per_second']:.0f} pairs/s, {measured['memory']:.2f} GB", flush=True)
    return measured["pairs_per_second"]


def corpora(task: str, count: int) -> dict[str, list[str]]:
    """Return `count` captions of each corpus, as tokens between spaces."""
    found = {"random words": random_captions(count)}
    shared = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared")) / "data"
    rsicd, flickr30k = (["train"], ["train"]) if task == "train" else (["test", "dev"], ["test_2016", "val"])
    real = {
        "RSICD captions": [shared / "rsicd_precomp" / f"{split}_caps.txt" for split in rsicd],
        "Flickr30k captions": [
            shared / "text" / f"flickr30k_{split}.{number}.en.gz"
            for split in flickr30k
            for number in range(1, 6)
        ],
    }
    for name, files in real.items():
        if all(file.is_file() for file in files):
            found[name] = real_captions(files, count)
    return found


def random_captions(count: int) -> list[str]:
    """Return captions of random words."""
    random = np.random.default_rng(0)
    lengths = random.integers(FEWEST_WORDS, MOST_WORDS + 1, count)
    words = random.integers(RANDOM_VOCABULARY, size=lengths.sum())
    return [" ".join(f"w{word}" for word in part) for part in np.split(words, lengths.cumsum()[:-1])]


def real_captions(files: list[Path], count: int) -> list[str]:
    """Return `count` captions of 8 to 20 words from plain or compressed files of one a line."""
    captions = []
    for file in files:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for line in data.decode("utf-8").splitlines():
            tokens = tokenize(line, "simple")
            if FEWEST_WORDS <= len(tokens) <= MOST_WORDS:
                captions.append(" ".join(tokens))
    chosen = np.random.default_rng(0).choice(len(captions), count, replace=False)
    return [captions[index] for index in chosen]


def write_corpus(folder: Path, captions: list[str]) -> None:
    """Write captions, and random features for their images, as a folder of the precomp layout."""
    images = len(captions) // CAPTIONS_PER_IMAGE
    features = np.random.default_rng(0).standard_normal((images, FEATURE_DIM), dtype=np.float32)
    for split in ("train", "dev"):
        part = slice(None) if split == "train" else slice(10)
        np.save(folder / f"{split}_ims.npy", features[part])
        lines = captions if split == "train" else captions[: 10 * CAPTIONS_PER_IMAGE]
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def measure_turns(encode: Callable[[], np.ndarray], first_result: Path) -> None:
    """In a side's process: for each line on stdin call `encode` and print its pairs/s.

    It returns the embeddings [captions,D], of which the first are saved for a comparison.
    """
    while sys.stdin.readline():
        started = time.perf_counter()
        embeddings = encode()
        pairs_per_second = len(embeddings) / (time.perf_counter() - started)
        if not first_result.exists():
            np.save(first_result, embeddings)
        _answer(pairs_per_second)


def measure_steps(
    batches: Iterable, lengths_of: Callable[[object], Sequence[int]], mean_length: float
) -> Iterator:
    """In a side's process: yield training batches, a turn's for each line on stdin, and print its speed.

    Turns differ in the lengths of their captions, so their tokens are counted: a pair has `mean_length`.
    """
    batches = iter(batches)
    while sys.stdin.readline():
        started, tokens = time.perf_counter(), 0
        for _ in range(STEPS):
            batch = next(batches)
            tokens += sum(lengths_of(batch))
            yield batch
        _answer(tokens / mean_length / (time.perf_counter() - started))


def _answer(pairs_per_second: float) -> None:
    print(json.dumps({"pairs_per_second": pairs_per_second, "memory": peak_memory()}), flush=True)
