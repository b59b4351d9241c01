"""Measure a trained model on a split: recalls both ways, ranks, and a result file.

    python tools/eval_retrieval.py --cfg_file out/scenes_vsepp/config.yaml
    python tools/eval_retrieval.py --cfg_file configs/coco/vsepp.yaml EVAL.SPLIT=test EVAL.FOLDS=5
    python tools/eval_retrieval.py --cfg_file F --save_scores scores.npz

Writes result.json into <run>/eval_<split>/ (or --out). The checkpoint is EVAL.CHECKPOINT_DIR, else <run>/best.
"""

import argparse
import sys
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run
from yacs.config import CfgNode

from config.load import add_config_arguments, config_as_dict, config_from_arguments
from engine.runtime import Runtime, prepare_runtime


def main() -> int:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder for result.json (default: <run>/eval_<split>)")
    parser.add_argument(
        "--save_scores", metavar="F.npz", help="also write the scores [images, captions] with their ids"
    )
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    runtime = prepare_runtime(cfg.RUNTIME.DEVICE, cfg.RUNTIME.THREADS, cfg.MISC.SEED, cfg.RUNTIME.DETERMINISTIC)
    print(runtime.describe(), flush=True)
    return evaluate_checkpoint(cfg, runtime, arguments.out, arguments.save_scores)


def evaluate_checkpoint(cfg: CfgNode, runtime: Runtime, out: str | None, scores_path: str | None) -> int:
    """Evaluate the checkpoint that `cfg` names; print the table and write result.json."""
    from datasets.build import build_dataset
    from engine.build import evaluate_split, load_trained, run_folder, split_name
    from engine.checkpoint import checkpoint_hash
    from engine.evaluator import format_table, write_result_json

    model, vocabulary, state, checkpoint = load_trained(cfg)
    split = split_name(cfg)
    dataset = build_dataset(cfg, split, vocabulary, training=False)
    result = evaluate_split(cfg, model, dataset, split, progress_bar(), scores_path)
    folder = Path(out) if out else run_folder(cfg).path / f"eval_{cfg.EVAL.SPLIT}"
    provenance = {
        "path": str(checkpoint),
        "sha256": checkpoint_hash(state),
        "model": state["model"],
        "step": state["progress"]["step"],
    }
    path = write_result_json(folder / "result.json", result, provenance, config_as_dict(cfg), str(runtime.describe()))
    print(format_table(result))
    print(f"written: {path}" + (f", {scores_path}" if scores_path else ""))
    return 0
