"""One point of a cost law: `python measure.py PART SIZE` prints a line of JSON.

Each point has a process of its own, so that its memory is its own. Times are `wall` and `processor` seconds,
memory is in GB, and `memory` is the peak less what the process held before the work.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from _ours import our_config
from _race import random_captions
from _report import ROOT, peak_memory, untuned

import contextlib
import json
import multiprocessing
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

VOCABULARY, CAPTIONS_PER_IMAGE = 10_000, 5
EMBEDDING, WORD, REGIONS, REGION_FEATURES, FEATURES = 256, 128, 36, 512, 1024  # the small settings
STEP_SECONDS, MOST_STEPS = 3.0, 40  # how long steps of one batch size are measured
INDEX_WIDTH, CLUSTER, NOISE, QUERIES = 256, 50, 0.5, 60


def main() -> None:
    part, size = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        measured = PARTS[part](size, Path(folder))
    print(json.dumps({name: float(f"{value:.4g}") for name, value in measured.items()}))


def clocks() -> tuple[float, float]:
    """Return the wall clock and the processor time of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def timed(work: Callable[[], object], name: str = "") -> tuple[object, dict[str, float]]:
    """Return what `work` returns, and the seconds that it took."""
    before = clocks()
    found = work()
    took = zip(("wall", "processor"), before, clocks(), strict=True)
    return found, {f"{name}{clock}": after - start for clock, start, after in took}


class EndOfStepsError(Exception):
    """All steps are measured."""


def train_vsepp(batch: int, folder: Path) -> dict:
    """Measure a training step of VSE++; the batch counts pairs, five captions an image."""
    return train("vsepp", batch, folder, (FEATURES,), 2048, CAPTIONS_PER_IMAGE, {})


def train_vsrn(batch: int, folder: Path) -> dict:
    """Measure a training step of VSRN; the batch counts pairs, one caption an image."""
    widths = {"MODEL.CAPTION_DIM": EMBEDDING, "MODEL.CAPTION_WORD_DIM": WORD}
    return train("vsrn", batch, folder, (REGIONS, REGION_FEATURES), 1100, 1, widths)


def train(
    model: str, batch: int, folder: Path, shape: tuple[int, ...], images: int, captions: int, changes: dict
) -> dict:
    """Measure the steps of the toolkit's own loop on batches that are read beforehand."""
    write_corpus(folder, images, shape, captions)
    small = {
        "MODEL.EMBED_DIM": EMBEDDING,
        "MODEL.WORD_DIM": WORD,
        "INPUT.IMG_FEATURE_DIM": shape[-1],
        "DATASET.CAPTIONS_PER_IMAGE": captions,
        "OPTIMIZATION.BATCH_SIZE": batch,
    }
    cfg = our_config(model, folder, small | changes)
    prepare()
    from engine.runs.run_log import RunLog
    from engine.tasks.build_trainer import build_trainer
    from engine.tasks.loading import run_folder

    run = run_folder(cfg)
    trainer, _ = build_trainer(cfg, run, RunLog(run.log_file, None, enabled=False), resume_from=None)
    batches = list(islice(trainer.batches_of(0, 0)[1], 8))
    before, starts = peak_memory(), []

    def shown() -> Iterator[dict]:
        for step in range(MOST_STEPS + 2):
            starts.append(clocks())
            if len(starts) > 5 and starts[-1][0] - starts[2][0] > STEP_SECONDS:
                break
            yield batches[step % len(batches)]
        raise EndOfStepsError

    trainer.batches_of = lambda epoch, start: (10**9, shown())
    with contextlib.suppress(EndOfStepsError):
        trainer.fit()
    steps = np.diff(np.array(starts[2:]), axis=0)  # the first two warm up
    wall, processor = np.median(steps, axis=0)
    return {"wall": wall, "processor": processor, "memory": peak_memory() - before}


def encode(images: int, folder: Path) -> dict:
    """Measure reading a split and encoding it, with five captions an image."""
    write_corpus(folder, images, (FEATURES,), CAPTIONS_PER_IMAGE)
    small = {"MODEL.EMBED_DIM": EMBEDDING, "MODEL.WORD_DIM": WORD, "INPUT.IMG_FEATURE_DIM": FEATURES}
    cfg = our_config("vsepp", folder, small)
    prepare()
    from datasets.build.dual import build_dataset, build_vocabulary
    from engine.evaluation import dual
    from models.build import build_model

    before = peak_memory()
    vocabulary = build_vocabulary(cfg)
    dataset, read = timed(lambda: build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=False), "read_")
    after_reading = peak_memory()
    model = build_model(cfg, len(vocabulary))
    _, encoded = timed(lambda: dual.encode(model, dataset, cfg.EVAL.BATCH_SIZE), "encode_")
    return read | encoded | {"read_memory": after_reading - before, "encode_memory": peak_memory() - before}


def rank(images: int, folder: Path) -> dict:
    """Measure ranking images and captions, five an image.

    An untrained encoder gives all items nearly one embedding. So these are unit vectors of normal numbers,
    where a caption resembles its image.
    """
    prepare()
    from engine.ranking.ranks import retrieval_ranks

    random = np.random.default_rng(0)
    vectors = random.standard_normal((images, EMBEDDING), dtype=np.float32)
    owner = np.arange(images).repeat(CAPTIONS_PER_IMAGE)
    texts = random.standard_normal((len(owner), EMBEDDING), dtype=np.float32)
    texts *= 2
    for caption in range(CAPTIONS_PER_IMAGE):
        texts[caption::CAPTIONS_PER_IMAGE] += vectors
    for each in (vectors, texts):
        each /= np.linalg.norm(each, axis=1, keepdims=True)
    before = peak_memory()
    _, ranked = timed(lambda: retrieval_ranks(vectors, texts, np.arange(images), owner))
    return ranked | {"memory": peak_memory() - before}


def index_scan(vectors: int, folder: Path) -> dict:
    """Measure an index with the exact engine."""
    return index(vectors, folder, "scan")


def index_lists(vectors: int, folder: Path) -> dict:
    """Measure an index with the inverted file."""
    return index(vectors, folder, "lists")


def index(count: int, folder: Path, engine: str) -> dict:
    """Measure building and searching an index of vectors in clusters, one query at a time."""
    prepare()
    from serving.index.build import publish
    from serving.index.card import Card
    from serving.index.finishing import Options, finish
    from serving.index.index import Index
    from serving.index.items import Item, Items
    from serving.index.vectors import VectorFile

    random = np.random.default_rng(0)
    centres = random.standard_normal((max(1, count // CLUSTER), INDEX_WIDTH), dtype=np.float32)

    def points(number: int) -> np.ndarray:
        vectors = centres[random.integers(0, len(centres), number)]
        vectors += np.float32(NOISE) * random.standard_normal((number, INDEX_WIDTH), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    draft = folder / "index" / "building"
    draft.mkdir(parents=True)
    before = peak_memory()

    def build() -> None:
        file, items = VectorFile(draft, INDEX_WIDTH), Items(draft, create=True)
        for start in range(0, count, 50_000):
            rows = range(start, min(start + 50_000, count))
            file.write(start, points(len(rows)))
            items.insert([Item(f"p{row}", None, {"row": row}) for row in rows])
        items.close()
        card = Card("", "pictures", count, INDEX_WIDTH, "cosine", "0" * 64)
        publish(folder / "index", draft, finish(draft, card, Options(engine), None))

    _, built = timed(build, "build_")
    memory = peak_memory() - before
    searched = Index(folder / "index")
    queries = points(QUERIES)
    searched.search(queries[:1], 10)
    took = [timed(lambda query=query: searched.search(query[None], 10), "query_")[1] for query in queries]
    size = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    query = {name: statistics.median(each[name] for each in took) for name in took[0]}
    return built | query | {"memory": memory, "disk": size / 1e9}


def start(images: int, folder: Path) -> dict:
    """Measure the start of a training from the command line to its first step, on a split of this size."""
    write_corpus(folder, images, (FEATURES,), CAPTIONS_PER_IMAGE, True)
    log = folder / "run" / "log.jsonl"
    small = {"MODEL.EMBED_DIM": EMBEDDING, "MODEL.WORD_DIM": WORD, "INPUT.IMG_FEATURE_DIM": FEATURES}
    keys = small | {
        "INPUT.TOKENIZER": "whitespace",
        "INPUT.VOCAB_FILE": folder / "vocabulary.json",
        "DATASET.DATA_DIR": folder,
        "OUTPUT.CHECKPOINT_DIR": folder,
        "OUTPUT.SAVE_NAME": "run",
        "MONITOR.PRINT_STEP": 1,
        "LOSS.COLLAPSE_STEPS": 0,  # all images are zeros
    }
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py", "--overwrite"]
    command += ["--cfg_file", ROOT / "configs" / "f30k" / "vsepp.yaml"]
    command += [f"{key}={value}" for key, value in keys.items()]

    def once() -> dict:
        log.unlink(missing_ok=True)
        process = subprocess.Popen(command, env=untuned(), stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None and not (log.is_file() and "\n" in log.read_text()):
                time.sleep(0.02)
            if process.poll() is not None:
                raise RuntimeError(f"training ended with {process.returncode} before its first step")
        finally:
            process.kill()
            process.wait()

    once()
    return timed(once)[1]


def checkpoint(weights: int, folder: Path) -> dict:
    """Measure writing a checkpoint of so many weights with Adam's two moments, and reading it back."""
    prepare()
    from engine.runs.checkpoint import MODEL_FILE, TRAINER_FILE, read_arrays, save_checkpoint

    random = np.random.default_rng(0)
    arrays = [random.standard_normal(weights, dtype=np.float32) for _ in range(3)]
    moments = dict(zip(("optimizer.m/w", "optimizer.v/w"), arrays[1:], strict=True))
    _, wrote = timed(lambda: save_checkpoint(folder / "last", {"w": arrays[0]}, moments, {}, "{}"), "write_")
    _, read = timed(
        lambda: [read_arrays(folder / "last", name) for name in (MODEL_FILE, TRAINER_FILE)], "read_"
    )
    size = sum(path.stat().st_size for path in (folder / "last").iterdir())
    return wrote | read | {"disk": size / 1e9}


def write_corpus(folder: Path, *arguments: object) -> None:
    """Write a split in a process of its own, so that it takes no memory of this one."""
    process = multiprocessing.get_context("fork").Process(target=_write_corpus, args=(folder, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("writing the split failed")


def _write_corpus(
    folder: Path, images: int, shape: tuple[int, ...], captions: int, zeros: bool = False
) -> None:
    """Write a split of random words and features, or of features that are a sparse file of zeros."""
    from datasets.words.vocabulary import Vocabulary

    words = random_captions(images * captions, VOCABULARY)
    Vocabulary.build((f"w{word}" for word in range(VOCABULARY)), "whitespace", 1, "vsepp").save(
        folder / "vocabulary.json"
    )
    for split, count in (("train", images), ("dev", 10)):
        store = np.lib.format.open_memmap(folder / f"{split}_ims.npy", "w+", np.float32, (count, *shape))
        for start in range(0, 0 if zeros else count, 1000):
            part = store[start : start + 1000]
            part[:] = np.random.default_rng(start).standard_normal(part.shape, dtype=np.float32)
        store.flush()
        lines: Iterable[str] = words[: count * captions]
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def prepare() -> None:
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")


PARTS: dict[str, Callable[[int, Path], dict]] = {
    "train_vsepp": train_vsepp,
    "train_vsrn": train_vsrn,
    "encode": encode,
    "rank": rank,
    "index_scan": index_scan,
    "index_lists": index_lists,
    "start": start,
    "checkpoint": checkpoint,
}


if __name__ == "__main__":
    main()
