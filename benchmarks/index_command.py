"""A search of 100,000 pictures from the command line, against one that encodes the whole split each time.

The baseline is this repository at commit 466a294, in a work tree: its `search_retrieval.py --cfg_file`
reads and encodes 100,000 pictures' features (2048 numbers) to 1024 numbers for one sentence. Ours asks an
index that was built once, from a bundle of the same run; pictures and sentence are the same. Both are new
processes each time, their files in the cache; ours also with a process beside it that keeps index and
bundle in memory (--serve). Then the library alone: a sentence becomes tokens, a vector and hits, in one
process.
"""

from _report import ROOT, report, run_child, untuned

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

COMMIT = "466a294"
PICTURES, FEATURES, WIDTH, SMALL = 100_000, 2048, 1024, 128
ROUNDS, SEARCHES = 2, 8
SENTENCE = "w17 w3 w250 w9 w77 w1 w1200 w42"
LIMIT_MS = 15.0


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(library(Path(sys.argv[1]), Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        old = folder / "old"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", old, COMMIT], check=True)
        try:
            compare(folder, old)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", old], check=True)


def compare(folder: Path, old: Path) -> None:
    """Make data, a run, a bundle and an index, and report both searches and the library's time."""
    write_data(folder / "data")
    settings = [
        *("--cfg_file", ROOT / "configs" / "f30k" / "vsepp.yaml", f"DATASET.DATA_DIR={folder / 'data'}"),
        *(f"INPUT.IMG_FEATURE_DIM={FEATURES}", f"MODEL.EMBED_DIM={WIDTH}", "INPUT.TOKENIZER=whitespace"),
        *("DATASET.CAPTIONS_PER_IMAGE=1", f"OUTPUT.CHECKPOINT_DIR={folder}", "OUTPUT.SAVE_NAME=run"),
        *("INPUT.VOCAB_THRESHOLD=1", "OPTIMIZATION.EPOCHS=1"),
    ]
    run(old, "train_retrieval", *settings)
    bundle, index = folder / "bundle", folder / "pictures.index"
    run(ROOT, "export_model", *settings, "--out", bundle)
    gallery = folder / "data" / "test_ims.npy"
    took = run(ROOT, "build_index", "--bundle", bundle, "--gallery", gallery, "--out", index)
    print(
        f"building the index: {took:.1f} s; {json.loads((index / 'card.json').read_text())['engine']}",
        flush=True,
    )
    ask = ["--index", index, "--text", SENTENCE]
    run(ROOT, "search_retrieval", *ask)
    alone, served, baseline = [], [], []
    for _ in range(ROUNDS):
        baseline.append(run(old, "search_retrieval", *settings, "--text", SENTENCE, "--out", folder / "page"))
        alone += [run(ROOT, "search_retrieval", *ask) for _ in range(SEARCHES)]
        with serving(index):
            run(ROOT, "search_retrieval", *ask)
            served += [run(ROOT, "search_retrieval", *ask) for _ in range(SEARCHES)]
        print(
            f"baseline {baseline[-1]:.2f} s, ours {median(alone):.3f} s, served {median(served):.3f} s",
            flush=True,
        )
    name = f"a search of {PICTURES:,} x {WIDTH} from the command line, against encoding them each time"
    report(f"{name}; index in the cache", median(alone), median(baseline), 50, "s", higher_is_better=False)
    report(f"{name}; index served", median(served), median(baseline), 200, "s", higher_is_better=False)
    measured = run_child(__file__, str(bundle), str(index))
    print(f"the library: p95 {measured['p95']:.1f} ms, {measured['memory']:.2f} GB of memory at the most")
    name = f"p50 of a search of {PICTURES:,} x {WIDTH} by the library, with encoding, of {LIMIT_MS:g} ms"
    report(name, measured["p50"], LIMIT_MS, 1, "ms", higher_is_better=False)


@contextlib.contextmanager
def serving(index: Path) -> Iterator[None]:
    """Keep an index in the memory of a process (--serve) during the block."""
    command = [sys.executable, ROOT / "tools" / "search_retrieval.py", "--index", index, "--serve"]
    with subprocess.Popen(command, env=untuned(), stdout=subprocess.PIPE, text=True) as process:
        try:
            if "from memory" not in process.stdout.readline():
                raise RuntimeError("no process serves the index")
            yield
        finally:
            process.terminate()


def run(repository: Path, tool: str, *arguments: object) -> float:
    """Run a tool of a repository and return its seconds; raise RuntimeError where it fails."""
    command = [sys.executable, repository / "tools" / f"{tool}.py", *map(str, arguments)]
    began = time.perf_counter()
    child = subprocess.run(command, env=untuned(), capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{tool} ended with {child.returncode}: {child.stderr[-2000:]}")
    return time.perf_counter() - began


def write_data(folder: Path) -> None:
    """Write random features and captions of random words: a few to train on, and the pictures to search."""
    import numpy as np

    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", SMALL), ("dev", SMALL), ("test", PICTURES)):
        store = np.lib.format.open_memmap(folder / f"{split}_ims.npy", "w+", np.float16, (count, FEATURES))
        for start in range(0, count, 4096):
            part = store[start : start + 4096]
            part[:] = random.random(part.shape, dtype=np.float32)
        store.flush()
        words = random.integers(0, 2000, (count, 10))
        if split == "train":
            words[:, 0] = np.arange(count)
            words[0, :8] = [int(word[1:]) for word in SENTENCE.split()]
        lines = (" ".join(f"w{word}" for word in row) for row in words)
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))


def library(bundle: Path, index: Path) -> dict:
    """Return the median and 95th percentile of the milliseconds of a search, and the peak memory in GB."""
    from _report import peak_memory

    import numpy as np

    from serving.bundle.bundle import Bundle
    from serving.index.index import Index
    from serving.index.query import Asker, Term

    encoder, words, times = Bundle.open(bundle), SENTENCE.split(), []
    with Index(index) as opened:
        asker = Asker(opened)
        for number in range(110):
            sentence = " ".join(words[number % len(words) :] + words[: number % 7])
            began = time.perf_counter()
            vector = encoder.encode_texts([sentence])[0]
            asker.answers([[Term(sentence, vector)]], 10)
            times.append((time.perf_counter() - began) * 1e3)
    p50, p95 = np.percentile(times[10:], [50, 95])
    return {"p50": float(p50), "p95": float(p95), "memory": peak_memory()}


if __name__ == "__main__":
    main()
