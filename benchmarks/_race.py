"""A race of ours against the PyTorch twin: both sides read one corpus and measure in turns.

A corpus has random image features, one or five captions an image and 8 to 20 words a caption. The captions
are those of RSICD and of Flickr30k, if `../shared` (or RETRIEVAL_SHARED) holds them, and captions of words
drawn at random from 10,000. Random words are the worst case for ours, which computes common prefixes of
captions once.
"""

from _report import ROOT, TUNING, alternate, peak_memory, report

import functools
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.words.tokens import tokenize
from datasets.words.vocabulary import Vocabulary

HERE = Path(__file__).resolve().parent
_SPIN_SECONDS = 0.3  # for so long the other side's threads of OpenMP may spin after its last product
WORD_DIM = 300
FEWEST_WORDS, MOST_WORDS, RANDOM_VOCABULARY = 8, 20, 10_000
VOCABULARY, WEIGHTS, OURS, TWIN = "vocabulary.json", "weights.npz", "ours.npy", "twin.npy"  # file names


@dataclass(frozen=True)
class Setting:
    """The sizes, scripts and turns of a model's race."""

    twin: str  # script of the twin's side
    layout: str  # vocabulary layout
    features: tuple[int, ...]  # shape of an image's features: [F] or [R,F]
    embed_dim: int
    batch: int  # pairs in a training step
    steps: int = 2  # training steps in a turn
    rounds: int = 15  # turns of each side: short ones, since a core's speed may change within seconds
    by_words: bool = True  # the work for a pair is proportional to its number of words
    captions_per_image: int = 5
    # Turns of training before the first that counts: oneDNN compiles code for each number of rows that it
    # meets, fifty a step at first, twelve (2% of its time) after twenty of a training's thousands of steps.
    warm_up: int = 10
    ours: str = "_ours.py"  # script of our side


FLOAT32, BFLOAT16 = "float32", "bfloat16"


SETTINGS = {
    "vse": Setting("_twins.py", "vse", (4096,), 1024, 128),
    "vsepp": Setting("_twins.py", "vsepp", (4096,), 1024, 128),
    # One caption an image: ours computes an image once a batch, and with Flickr30k's 29,000 images a batch
    # of 128 pairs rarely has one twice.
    "vsrn": Setting(
        "_twin_vsrn.py",
        "vsepp",
        (36, 2048),
        2048,
        128,
        steps=1,
        rounds=3,
        by_words=False,
        captions_per_image=1,
        warm_up=2,
    ),
    "oscar": Setting(
        "_twin_oscar.py", "wordpiece", (50, 2054), 768, 8, steps=2, rounds=3, warm_up=1, ours="_ours_oscar.py"
    ),
}


class Side:
    """A process that takes a measurement each turn: it reads a line and prints a line of JSON."""

    def __init__(self, script: str, task: str, model: str, folder: Path, *further: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in TUNING}
        command = [sys.executable, str(HERE / script), task, model, str(folder), *further]
        self._warm_up = SETTINGS[model].warm_up if task == "train" else 1
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Side":
        for _ in range(self._warm_up):
            self.turn()
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def turn(self) -> dict:
        """Return the process's next measurement; raises RuntimeError, with its output, if it has ended."""
        time.sleep(_SPIN_SECONDS)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            printed = line + self.process.communicate()[0]
            command = " ".join(map(str, self.process.args))
            raise RuntimeError(f"{command} ended with {self.process.returncode}:\n{printed[-2000:]}")
        return json.loads(line)


def race(
    task: str,
    model: str,
    images: int,
    goal: float,
    claim: str,
    precisions: tuple[str, str] = (FLOAT32, FLOAT32),
) -> None:
    """Race both sides on each corpus, real captions last, and report their pairs/s.

    `task` is train or encode, `model` is vsepp or vse, and `claim` begins the name of each report.
    `precisions` are ours and the twin's: float32, or bfloat16, the twin's under `torch.autocast`.
    """
    if not can_race(precisions, claim):
        return
    for corpus, captions in corpora(task, images * SETTINGS[model].captions_per_image).items():
        print(f"{corpus}:", flush=True)
        measured = race_on(captions, images, task, model, precisions)
        report(f"{claim}, {corpus}", *measured, goal=goal, unit="pairs/s", higher_is_better=True)


def race_on(
    captions: list[str],
    images: int,
    task: str,
    model: str,
    precisions: tuple[str, str] = (FLOAT32, FLOAT32),
) -> tuple[float, float]:
    """Return the median pairs/s of ours and of the twin on `images` images and the first of the captions.

    The vocabulary has the words of all `captions`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), captions, images, model)
        return take_turns(task, model, Path(folder), precisions)


def take_turns(
    task: str, model: str, folder: Path, precisions: tuple[str, str] = (FLOAT32, FLOAT32)
) -> tuple[float, float]:
    """Return the median speeds of ours and of the twin.

    Raises RuntimeError if their results differ by more than 1e-5, in bfloat16 by more than 0.05.
    """
    setting = SETTINGS[model]
    # The twin starts after the first turn of ours, which has written the weights.
    of_ours, of_twin = ([] if each == FLOAT32 else [each] for each in precisions)
    with (
        Side(setting.ours, task, model, str(folder), *of_ours) as ours,
        Side(setting.twin, task, model, str(folder), *of_twin) as twin,
    ):
        if task != "train":
            difference = np.abs(np.load(folder / OURS) - np.load(folder / TWIN)).max()
            print(f"largest difference of the results: {difference:.1e}", flush=True)
            if difference > (1e-5 if precisions == (FLOAT32, FLOAT32) else 0.05):
                raise RuntimeError("ours and the twin disagree: there is nothing to compare")
        return alternate(lambda: show("ours", ours.turn()), lambda: show("twin", twin.turn()), setting.rounds)


def can_race(precisions: tuple[str, ...], claim: str) -> bool:
    """Tell whether this machine has the `precisions`; print why not."""
    from models.kernels import onednn

    if BFLOAT16 not in precisions:
        return True
    if not onednn.has_bfloat16():
        print(f"{claim}: not here, since the processor has no instructions for bfloat16", flush=True)
        return False
    if _quickest_in_layers() == BFLOAT16:
        return True
    reason = "the processor multiplies bfloat16 more slowly than float32"
    print(f"{claim}: not here, since {reason}", flush=True)
    return False


@functools.cache
def _quickest_in_layers() -> str:
    """Return what a process with the runtime of the tools multiplies most quickly in layers.

    This one may have imported NumPy before its threads and kernels were chosen.
    """
    lines = "from engine.runtime import set_environment; set_environment(); from models.kernels import choice"
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    command = [sys.executable, "-c", f"{lines}; print(choice.quickest(choice.LAYERS))"]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def show(side: str, measured: dict) -> float:
    print(f"{side}: {measured['per_second']:.4g} a second, {measured['memory']:.2f} GB", flush=True)
    return measured["per_second"]


def shared_data() -> Path:
    """Return the folder of real captions and features, which may not be there."""
    return Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared")) / "data"


def corpora(task: str, count: int) -> dict[str, list[str]]:
    """Return `count` captions of each corpus that is there, as tokens joined by spaces."""
    found = {"random words": random_captions(count)}
    shared = shared_data()
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


def random_captions(count: int, vocabulary: int = RANDOM_VOCABULARY) -> list[str]:
    """Return `count` captions of words drawn at random from `vocabulary` many."""
    random = np.random.default_rng(0)
    lengths = random.integers(FEWEST_WORDS, MOST_WORDS + 1, count)
    words = random.integers(vocabulary, size=lengths.sum())
    return [" ".join(f"w{word}" for word in part) for part in np.split(words, lengths.cumsum()[:-1])]


def real_captions(files: list[Path], count: int) -> list[str]:
    """Return `count` random captions of 8 to 20 words from files, plain or gzipped, with a caption a line."""
    captions = []
    for file in files:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for line in data.decode("utf-8").splitlines():
            tokens = tokenize(line, "simple")
            if FEWEST_WORDS <= len(tokens) <= MOST_WORDS:
                captions.append(" ".join(tokens))
    chosen = np.random.default_rng(0).choice(len(captions), count, replace=False)
    return [captions[index] for index in chosen]


def write_corpus(folder: Path, captions: list[str], images: int, model: str) -> None:
    """Write captions and random features of `images` images as a folder of the precomp layout.

    The vocabulary has the words of all `captions`, also of those that are not written.
    """
    setting = SETTINGS[model]
    Vocabulary.build(captions, "whitespace", 1, setting.layout).save(folder / VOCABULARY)
    captions = captions[: images * setting.captions_per_image]
    features = np.random.default_rng(0).standard_normal((images, *setting.features), dtype=np.float32)
    for split in ("train", "dev"):
        part = slice(None) if split == "train" else slice(10)
        np.save(folder / f"{split}_ims.npy", features[part])
        lines = captions if split == "train" else captions[: 10 * setting.captions_per_image]
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def measure_turns(encode: Callable[[], np.ndarray], first_result: Path) -> None:
    """Call `encode` for each line on stdin and print its rows per second, in the process of a side.

    `encode` returns an embedding in each row. Those of the first call are saved for the comparison.
    """
    while sys.stdin.readline():
        started = time.perf_counter()
        embeddings = encode()
        per_second = len(embeddings) / (time.perf_counter() - started)
        if not first_result.exists():
            np.save(first_result, embeddings)
        _print_measurement(per_second)


def measure_steps(
    batches: Iterable, setting: Setting, lengths_of: Callable[[object], np.ndarray], mean_length: float
) -> Iterator:
    """Yield the training batches of a turn for each line on stdin and print its pairs/s, in a side's process.

    Turns have captions of different lengths. So if the work is proportional to the words (`by_words`), the
    words of a turn divided by `mean_length` count as its pairs.
    """
    batches = iter(batches)
    while sys.stdin.readline():
        started, pairs = time.perf_counter(), 0.0
        for _ in range(setting.steps):
            batch = next(batches)
            lengths = lengths_of(batch)
            pairs += lengths.sum() / mean_length if setting.by_words else len(lengths)
            yield batch
        _print_measurement(pairs / (time.perf_counter() - started))


def _print_measurement(per_second: float) -> None:
    print(json.dumps({"per_second": per_second, "memory": peak_memory()}), flush=True)
