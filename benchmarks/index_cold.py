"""The first answer of a process that has just started: a VSE++ and an index of 100,000 x 1024 vectors.

The bundle has the sizes of VSE++ (words 300, embedding 1024, 10,000 words) and untrained weights, the index
random vectors. Files are in the cache. Measured are the command line, and a process that loads the engine as
a service does and then answers; and what a Python process takes that does nothing, below which none can come.
"""

from _race import RANDOM_VOCABULARY
from _report import ROOT, peak_memory, report, run_child, seconds, untuned

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COUNT, WORD_DIM, WIDTH, ROUNDS = 100_000, 300, 1024, 7
SENTENCE = "w17 w3 w250 w9 w77 w1 w1200 w42"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_child(__file__, name, "make")
        command = [sys.executable, ROOT / "tools" / "search_retrieval.py", "--index", folder / "index"]
        command += ["--bundle", folder / "bundle", "--text", SENTENCE]
        loaded = [sys.executable, __file__, name, "load"]
        nothing = [sys.executable, "-c", "pass"]
        times = [[timed(each) for each in (command, loaded, nothing)] for _ in range(ROUNDS + 1)][1:]
        asked, resident, bare = (statistics.median(column) for column in zip(*times, strict=True))
        peaks = [run_child(__file__, name, mode)["gigabytes"] for mode in ("peak", "load")]
    what = f"first answer of {COUNT:,} x {WIDTH}"
    print(f"a Python process that does nothing: {1000 * bare:.0f} ms")
    report(f"{what}, command line", asked, 1.0, 1, "s", higher_is_better=False)
    report(f"{what}, command line, memory", peaks[0], 0.4, 1, "GB", higher_is_better=False)
    report(f"{what}, engine loaded", resident, 1.0, 1, "s", higher_is_better=False)
    report(f"{what}, engine loaded, memory", peaks[1], 0.4, 1, "GB", higher_is_better=False)


def timed(command: list) -> float:
    """Return the seconds of a command."""
    return seconds(lambda: subprocess.run(command, env=untuned(), check=True, capture_output=True))


def make(folder: Path) -> None:
    """Write the bundle and the index."""
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    import numpy as np
    import onnx

    from config.files.bundles import write_description
    from datasets.words.vocabulary import Vocabulary
    from engine.export.graphs.dual import encode_text
    from engine.export.graphs.onnx_graph import OnnxGraph
    from models.encoders import GRUTextEncoder
    from serving.bundle.bundle import Bundle
    from serving.index.build import publish
    from serving.index.card import Card
    from serving.index.finishing import Options, finish
    from serving.index.items import Item, Items
    from serving.index.vectors import VectorFile

    bundle, draft = folder / "bundle", folder / "index" / "building"
    bundle.mkdir()
    draft.mkdir(parents=True)
    text = " ".join(f"w{number}" for number in range(RANDOM_VOCABULARY))
    words = Vocabulary.build([text], "whitespace", 1, "vsepp")
    words.save(bundle / words.file_name)
    graph = OnnxGraph()
    encoder = GRUTextEncoder(len(words), WORD_DIM, WIDTH)
    onnx.save(graph.model(encode_text(graph, encoder), "embedding", ["batch", WIDTH]), bundle / "text.onnx")
    description = {"family": "vsepp", "kind": "dual", "runtime": "onnx", "precision": "float32"}
    description |= {"embedding": {"width": WIDTH, "measure": "cosine", "abs": False}}
    description |= {
        "text": {"tokenizer": "whitespace", "lower": False, "file": words.file_name, "longest": 0}
    }
    description |= {"image": {"reads": "features", "width": 2048}, "graphs": {"text": {"file": "text.onnx"}}}
    write_description(bundle, description)
    random, file, items = np.random.default_rng(0), VectorFile(draft, WIDTH), Items(draft, create=True)
    for start in range(0, COUNT, 10_000):
        vectors = random.standard_normal((10_000, WIDTH), dtype=np.float32)
        file.write(start, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        items.insert([Item(f"p{row}.jpg", None, {}) for row in range(start, start + 10_000)])
    items.close()
    card = Card("", "pictures", COUNT, WIDTH, "cosine", Bundle.open(bundle).identity)
    publish(folder / "index", draft, finish(draft, card, Options("int8"), None))
    print(json.dumps({"made": COUNT}))


def load(folder: Path) -> None:
    """Answer once as a service does, and print the peak of memory."""
    from serving.bundle.bundle import Bundle
    from serving.index.index import Index
    from serving.index.query import Asker, Term

    bundle = Bundle.open(folder / "bundle")
    with Index(folder / "index") as index:
        vector = bundle.encode_texts([SENTENCE])[0]
        Asker(index).answers([[Term(SENTENCE, vector)]], 10)
    print(json.dumps({"gigabytes": peak_memory()}))


def peak(folder: Path) -> None:
    """Search from the command line in a child, and print the peak of its memory."""
    command = [sys.executable, ROOT / "tools" / "search_retrieval.py", "--index", folder / "index"]
    timed([*command, "--bundle", folder / "bundle", "--text", SENTENCE])
    print(json.dumps({"gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"make": make, "load": load, "peak": peak}[sys.argv[2]](Path(sys.argv[1]))
    else:
        main()
