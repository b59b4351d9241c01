"""Scoring pairs by the bundle of an Oscar, BERT-base, against the toolkit's own scoring and an earlier one.

All read the same captions, tags and regions of 8 images x 16 captions, and untrained weights; the toolkit
scores in float32. Whether recalls hold depends on trained weights: an export with --precision int8 measures
that on the dev split and refuses a loss above --max_loss; docs/export.md has the recalls.
"""

from _builds import EARLIER, earlier_build
from _oscar_corpus import cross_pairs, open_corpus, oscar_corpus
from _race import Side, show
from _report import ROOT, alternate, report, seconds
from prepare_pairs import REGIONS, TOKENS, WIDTH

import shutil
from pathlib import Path

import numpy as np

from config.load import load_config
from datasets.pairs import ListedPairs, Pairs
from engine.runtime import prepare_runtime

ROUNDS = 3
PRECISIONS = ("float32", "int8")


def main() -> None:
    prepare_runtime("cpu")
    with oscar_corpus() as (corpus, folder):
        race(corpus, folder)


def race(corpus: str, folder: Path) -> None:
    """Take turns at the same pairs, and report."""
    from engine.evaluation.pair_scoring import score_pairs
    from models.build import build_model

    dataset = open_corpus(folder)
    keys = {"INPUT.MAX_SEQ_LEN": TOKENS, "INPUT.MAX_REGION": REGIONS, "DATASET.DATA_DIR": folder}
    cfg = load_config(
        ROOT / "configs" / "f30k" / "oscar.yaml", [f"{key}={value}" for key, value in keys.items()]
    )
    model = build_model(cfg, len(dataset.word_piece))
    model.eval()
    pairs = cross_pairs(dataset)
    lengths = dataset.image_lengths, dataset.caption_lengths
    pairs = ListedPairs(pairs, *lengths, block_pairs=len(pairs)).block(0)  # as an evaluation orders them
    bundles = {precision: write_bundle(folder, model, dataset, precision) for precision in PRECISIONS}
    found = {}

    def ours(precision: str) -> float:
        def score() -> None:
            found[precision] = scored(bundles[precision], dataset, pairs)

        return len(pairs) / seconds(score)

    def today() -> float:
        def score() -> None:
            found["today"] = score_pairs(model, dataset, pairs, cfg.EVAL.BATCH_TOKENS)

        return len(pairs) / seconds(score)

    for precision, goal in (("float32", 0.5), ("int8", 2)):
        measured = alternate(lambda precision=precision: ours(precision), today, ROUNDS)
        off = np.abs(found[precision] - found["today"]).max()
        print(f"{precision}: largest difference {off:.1e} of scores up to {np.abs(found['today']).max():.1e}")
        claim = f"Oscar scoring, BERT-base, with a bundle in {precision}, against the toolkit's own, {corpus}"
        report(claim, *measured, goal=goal, unit="pairs/s", higher_is_better=True)
    copy = shutil.copytree(folder, folder / "earlier", ignore=shutil.ignore_patterns(*PRECISIONS))
    with earlier_build(folder / "build") as earlier:
        script = str(earlier / "benchmarks" / "_ours_oscar.py")
        with Side(script, "score", "oscar", copy) as side:
            measured = alternate(lambda: ours("int8"), lambda: show(EARLIER, side.turn()), ROUNDS)
    claim = f"Oscar scoring, BERT-base, with a bundle in int8, against {EARLIER}, {corpus}"
    report(claim, *measured, goal=2, unit="pairs/s", higher_is_better=True)


def scored(bundle, dataset, pairs) -> np.ndarray:
    """Return the scores of pairs by a bundle, from the regions of the data set's images."""
    images, place = np.unique(pairs.images, return_inverse=True)
    counts = dataset.features.counts(images)
    tags = [dataset.features.annotations(image).tags for image in images.tolist()]
    texts, caption = np.unique(pairs.captions, return_inverse=True)
    regions = dataset.features.gather(images, pool=False)
    own = Pairs(place, caption)
    return bundle.score_pairs([dataset.captions[text] for text in texts], regions, counts, tags, own)


def write_bundle(folder: Path, model, dataset, precision: str):
    """Write the bundle of a model, as an export does, and open it."""
    import onnx

    from config.files.bundles import write_description
    from engine.export.graphs.onnx_graph import OnnxGraph
    from engine.export.graphs.pair import score_pairs
    from engine.export.precision import write_quantised
    from serving.bundle.bundle import Bundle

    bundle = folder / precision
    bundle.mkdir()
    graph = OnnxGraph()
    content = graph.model(score_pairs(graph, model, WIDTH), "score", ["batch"])
    if precision == "int8":
        write_quantised(content, bundle / "pairs.onnx")
    else:
        onnx.save(content, bundle / "pairs.onnx")
    dataset.word_piece.save(bundle / dataset.word_piece.file_name)
    text = {"tokenizer": "wordpiece", "lower": True, "file": dataset.word_piece.file_name, "longest": TOKENS}
    image = {"reads": "regions", "width": WIDTH, "most": REGIONS, "tags": True}
    description = {"family": "oscar", "kind": "cross", "runtime": "onnx", "precision": precision}
    description |= {
        "embedding": None,
        "text": text,
        "image": image,
        "graphs": {"pairs": {"file": "pairs.onnx"}},
    }
    write_description(bundle, description)
    return Bundle.open(bundle)


if __name__ == "__main__":
    main()
