"""Export runs in every precision, measure the bundles, and write the table of docs/export.md.

    python benchmarks/_export_table.py out/rsicd_vsepp out/rsicd_vsrn out/rsicd_oscar out/ucm_softmax

A row holds a bundle's proof, its size, and the time of each graph for a batch of 1 and of 32: the quickest of
the rounds, in which all bundles of a run take turns, since other work makes a round slower and never quicker.
Texts have 12 tokens, and images 16 regions. OMP_NUM_THREADS says how many threads a graph has.
"""

from _report import ROOT, seconds

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.load import load_config
from engine.export.inference import InferenceGraph
from engine.runtime import prepare_runtime
from serving.bundle.bundle import Bundle
from serving.bundle.graph import Graph

PAGE = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- table: benchmarks/_export_table.py -->", "<!-- end of the table -->"
Variant = tuple[str, str]  # runtime and precision
VARIANTS = (("onnx", "float32"), ("onnx", "float16"), ("onnx", "int8"), ("paddle", "float32"))
RUNTIMES = {"onnx": "ONNX Runtime", "paddle": "Paddle Inference"}
BATCHES, ROUNDS = (1, 32), 30
AXES = {"length": 12, "count": 16}
COLUMNS = (
    *("model", "runtime", "precision", "MB", "image, ms (1 / 32)", "text or pair, ms (1 / 32)"),
    *("largest difference", "ranks changed", "beyond rounding", "mean recall"),
)
HEAD = f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
GRAPHS = ("image", "text", "pairs")


def main() -> None:
    prepare_runtime("cpu")
    runs = [Path(word) for word in sys.argv[1:]]
    rows = [row for run in runs for row in measure(run)]
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{HEAD}{''.join(rows)}\n{END}{after}", encoding="utf-8")


def measure(run: Path) -> list[str]:
    """Return the rows of a run, one for each runtime and precision that its family has."""
    with tempfile.TemporaryDirectory() as folder:
        made = {variant: export(run, Path(folder) / "_".join(variant), *variant) for variant in VARIANTS}
        bundles = {variant: bundle for variant, bundle in made.items() if bundle}
        times = latencies(bundles)
        return [row_of(run.name, bundle, times[name]) for name, bundle in bundles.items()]


def export(run: Path, out: Path, runtime: str, precision: str) -> Bundle | None:
    """Export a run, whatever the loss; return None where Paddle cannot trace the model."""
    from engine.export.export import export_model

    load = {"onnx": Graph, "paddle": InferenceGraph}[runtime]
    cfg = load_config(run / "config.yaml", ["RUNTIME.DEVICE=cpu"])
    try:
        export_model(cfg, out, runtime, precision, 100, partial(Bundle.open, load=load))
    except UserError as error:
        if runtime == "paddle" and "cannot trace" in str(error):
            return None
        raise
    return Bundle.open(out, load)


def latencies(bundles: dict[Variant, Bundle]) -> dict[Variant, dict[str, list[float]]]:
    """Return the fewest milliseconds of each graph, by variant: [batch of 1, batch of 32]."""
    random = np.random.default_rng(0)
    found: dict[Variant, dict[str, list[float]]] = {name: {} for name in bundles}
    for graph in next(iter(bundles.values())).description["graphs"]:
        for batch in BATCHES:
            inputs = inputs_of(next(iter(bundles.values())), graph, batch, random)
            turns: dict[Variant, list[float]] = {name: [] for name in bundles}
            for number in range(ROUNDS + 1):
                for name, bundle in bundles.items():
                    spent = seconds(lambda bundle=bundle: bundle._graph(graph)(**inputs))  # noqa: B023
                    if number:  # the first turn loads and warms up
                        turns[name].append(1000 * spent)
            for name, spent in turns.items():
                found[name].setdefault(graph, []).append(min(spent))
    return found


def inputs_of(bundle: Bundle, graph: str, batch: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random inputs of a graph."""
    words = len(bundle.words) if bundle.description["text"] else 0
    inputs = {}
    for value in bundle.description["graphs"][graph]["inputs"]:
        shape = [{"batch": batch, **AXES}.get(axis, axis) for axis in value["shape"]]
        full = {"text_len": AXES["length"], "num_regions": AXES["count"], "segment_ids": 0}
        if value["name"] in full:
            inputs[value["name"]] = np.full(shape, full[value["name"]], np.int64)
        elif value["type"] == "int64":
            inputs[value["name"]] = random.integers(words, size=shape)
        else:
            inputs[value["name"]] = random.standard_normal(shape).astype(np.float32)
    return inputs


def row_of(run: str, bundle: Bundle, times: dict[str, list[float]]) -> str:
    """Return a row of the table."""
    proof = bundle.description["proof"]
    size = sum(each["bytes"] for each in bundle.description["files"].values()) / 1e6
    shown = [" / ".join(f"{each:.1f}" for each in times[name]) if name in times else "" for name in GRAPHS]
    recall = f"{proof['before']['mean_recall']:.2f}, then {proof['after']['mean_recall']:.2f}"
    difference = max(proof["largest_difference"], proof["largest_difference_ragged"])
    cells = [
        f"{bundle.description['family']} ({run})",
        RUNTIMES[bundle.description["runtime"]],
        bundle.description["precision"],
        f"{size:.1f}",
        shown[0],
        shown[1] or shown[2],
        f"{difference:.1e}",
        f"{proof['ranks_changed']} of {proof['ranks']}",
        str(proof["ranks_changed_beyond_rounding"]),
        recall,
    ]
    print(json.dumps(cells), flush=True)
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
