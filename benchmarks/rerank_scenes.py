"""Re-ranking against the cross encoder alone, on Scenes' test split of 200 images and 1,000 captions.

VSE++ proposes the best k captions of each image and the best k images of each caption, and Oscar scores these
pairs, each once. The baseline is Oscar's R@1 on all pairs. Both models are trained with configs/scenes/,
unless run folders of both are given:

    python benchmarks/rerank_scenes.py [--dual out/demo/vsepp --cross out/demo/oscar]

The loss of R@1 is that of the direction that loses more, and at least a hundredth of a point. If the script
trains the models itself, it also reports the pairs that k = 20 needs in a test split of 1,000 images.
"""

from _report import ROOT, TUNING, report

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = {20: (0.5, 12.0), 8: (2.0, 5.0)}  # by k: points of R@1 lost, percent of the pairs scored
LARGE, LARGE_PERCENT = 1000, 2.4  # images; 20 x (1,000 + 5,000) of 1,000 x 5,000 pairs in percent
LEAST = 0.01  # points


def main() -> None:
    """Train the models unless they are given, evaluate both ways, and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dual", type=Path, metavar="RUN", help="run folder of a dual encoder on Scenes")
    parser.add_argument("--cross", type=Path, metavar="RUN", help="run folder of Oscar on the same data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.dual and arguments.cross:
            dual, cross = arguments.dual, arguments.cross
        else:
            dual, cross = train(folder)
        full = evaluate(cross, folder / "full")
        short = evaluate(dual, folder / "short", f"EVAL.RERANK_DIR={cross / 'best'}")
        compare(full["metrics"], short)
        if not arguments.dual:
            count_large(folder, dual)


def train(folder: Path) -> tuple[Path, Path]:
    """Generate Scenes, train both models on it, and return their run folders."""
    tool("make_scenes", "--out", folder / "data")
    for model in ("vsepp", "oscar"):
        config = ROOT / "configs" / "scenes" / f"{model}.yaml"
        places = [f"DATASET.DATA_DIR={folder / 'data'}", f"OUTPUT.CHECKPOINT_DIR={folder}"]
        tool("train_retrieval", "--cfg_file", config, *places, f"OUTPUT.SAVE_NAME={model}")
    return folder / "vsepp", folder / "oscar"


def evaluate(run: Path, out: Path, *overrides: str) -> dict:
    """Evaluate a run, and return its result."""
    tool("eval_retrieval", "--cfg_file", run / "config.yaml", "--out", out, *overrides)
    return json.loads((out / "result.json").read_text())


def compare(full: dict[str, float], short: dict) -> None:
    """Report for each k the loss of R@1, and the share of the pairs that was scored.

    Raises RuntimeError if the cross encoder is no better than the dual encoder, as nothing can be compared
    then.
    """
    rerank = short["rerank"]
    for name, metrics in (("VSE++", short["metrics"]), ("Oscar", full)):
        print(f"{name} alone: R@1 {metrics['i2t_r1']:.2f} and {metrics['t2i_r1']:.2f}", flush=True)
    if full["mean_recall"] <= short["metrics"]["mean_recall"]:
        raise RuntimeError("Oscar alone is no better than VSE++: re-ranking has nothing to gain")
    points = {point["k"]: point for point in rerank["curve"]}
    for k, (limit, percent) in LIMITS.items():
        found, share = points[k]["metrics"], 100 * points[k]["pairs_scored"] / rerank["all_pairs"]
        print(f"top {k}: R@1 {found['i2t_r1']:.2f} and {found['t2i_r1']:.2f}, {share:.2f}% of the pairs")
        lost = max(full[f"{way}_r1"] - found[f"{way}_r1"] for way in ("i2t", "t2i"))
        report(f"R@1 that re-ranking the top {k} of 200 loses", max(lost, LEAST), limit, 1, "points", False)
        report(f"pairs that the top {k} of 200 need", share, percent, 1, "percent", False)


def count_large(folder: Path, dual: Path) -> None:
    """Report the share of the pairs that the top 20 need in a test split of 1,000 images."""
    from config.load import load_config
    from engine.runtime import prepare_runtime

    prepare_runtime()
    import numpy as np

    from datasets.build.dual import build_dataset
    from datasets.pairs import candidate_pairs
    from engine.tasks.loading import load_trained
    from engine.evaluation.dual import encode, rank_encoded
    from engine.ranking.short_lists import ShortLists

    tool("make_scenes", "--out", folder / "large", "--train", "8", "--dev", "4", "--test", str(LARGE))
    cfg = load_config(dual / "config.yaml", [f"DATASET.DATA_DIR={folder / 'large'}"])
    trained = load_trained(cfg)
    dataset = build_dataset(cfg, "test", trained.words, training=False)
    folds = (np.zeros(count, np.int64) for count in (dataset.num_images, dataset.num_captions))
    lists = ShortLists(20, *folds, dataset.sentence_ids)
    rank_encoded(encode(trained.model, dataset), dataset, "test", lists=[lists])
    pairs = candidate_pairs(lists.captions_of_image, lists.images_of_caption)
    sentences = dataset.sentence_ids.max() + 1
    scored = len(np.unique(pairs.images * sentences + dataset.sentence_ids[pairs.captions]))
    share = 100 * scored / (dataset.num_images * sentences)
    report(f"pairs that the top 20 of {LARGE} need", share, LARGE_PERCENT, 1, "percent", False)


def tool(name: str, *arguments: str | Path) -> None:
    """Run a command-line tool of the toolkit in its own process."""
    environment = {key: value for key, value in os.environ.items() if key not in TUNING}
    command = [sys.executable, ROOT / "tools" / f"{name}.py", *arguments]
    subprocess.run(list(map(str, command)), env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
