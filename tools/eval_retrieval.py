"""Measure a trained model on a split: recalls both ways, ranks, and a result file.

    python tools/eval_retrieval.py --cfg_file out/scenes_vsepp/config.yaml
    python tools/eval_retrieval.py --cfg_file configs/coco/vsepp.yaml EVAL.SPLIT=test EVAL.FOLDS=5
    python tools/eval_retrieval.py --cfg_file F --save_scores scores.npz

Writes result.json into <run>/eval_<split>/ (or --out).
The checkpoint is EVAL.CHECKPOINT_DIR, else <run>/best.
"""

import argparse
from pathlib import Path

import _init_paths  # noqa: F401
from _command import leave_on_sigterm, run, start_runtime
from yacs.config import CfgNode

from config.errors import UserError
from config.load import add_config_arguments, config_as_dict, config_from_arguments


def main() -> int:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder for result.json (default: <run>/eval_<split>)")
    parser.add_argument(
        "--save_scores", metavar="F.npz", help="also write the scores [images, captions] with their ids"
    )
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    print(start_runtime(cfg).describe(), flush=True)
    leave_on_sigterm()
    return evaluate_checkpoint(cfg, arguments.out, arguments.save_scores)


def evaluate_checkpoint(cfg: CfgNode, out: str | None, scores_path: str | None) -> int:
    """Evaluate the checkpoint that `cfg` names; print the table and write result.json."""
    from tqdm import tqdm

    from datasets.build import build_dataset
    from engine.build import evaluate_split, load_trained, measure_swapped, run_folder, split_name
    from engine.checkpoint import checkpoint_hash
    from engine.result import format_table, versions, write_result_json

    model, vocabulary, state, folder = load_trained(cfg)
    dataset = build_dataset(cfg, split_name(cfg), vocabulary, training=False)
    path = Path(out or run_folder(cfg).path / f"eval_{cfg.EVAL.SPLIT}") / "result.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error
    with tqdm(unit="", leave=False, disable=None) as bar:  # none where output is not a terminal

        def show(stage: str, done: int, total: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        result = evaluate_split(cfg, model, dataset, scores_path, show)
    checkpoint = {
        "folder": str(folder),
        "sha256": checkpoint_hash(state),
        "model": state["model"],
        "step": state["progress"]["step"],
    }
    swapped = measure_swapped(cfg, model, vocabulary, dataset)
    write_result_json(path, result, checkpoint, config_as_dict(cfg), versions(), swapped)
    print(f"checkpoint: {folder}, step {checkpoint['step']}")
    print(format_table(result))
    for name, accuracies in swapped.items():
        shown = ", ".join(f"{kind} {value:.1f}" for kind, value in accuracies.items())
        print(f"{name} captions told apart, percent (chance 50): {shown}")
    print(f"written: {path}" + (f" and {scores_path}" if scores_path else ""))
    return 0


if __name__ == "__main__":
    run(main)
