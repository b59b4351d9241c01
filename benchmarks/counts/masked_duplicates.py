"""What masking duplicates in training changes on RSICD, on dev and test, over three seeds.

    python benchmarks/counts/masked_duplicates.py path/to/rsicd_precomp path/to/folder [--threads 1]

Trains the recipe configs/rsicd/vsepp.yaml with LOSS.MASK_DUPLICATES true and false, with the hardest
negative's hinge (all negatives in the first epoch, without which it sits on its plateau) and with the
recipe's contrastive loss. Recalls count a caption for its own image, and equal sentences for all images that
have them (DATASET.RELEVANCE=sentence). What is trained or measured already is not done again. The table goes
to docs/evaluation.md.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 2, 3)
LOSSES = {
    "hardest": ["LOSS.NAME=hinge", "LOSS.HARD_NEGATIVE=true", "LOSS.SUM_EPOCHS=1"],
    "contrastive": [],
}
MASKS = ("true", "false")
RULES = ("id", "sentence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="RSICD's features and captions")
    parser.add_argument("folder", type=Path, help="where runs go")
    parser.add_argument("--threads", type=int, default=1, help="of a training (default: 1)")
    args = parser.parse_args()
    print("| loss | duplicates | rsum on dev, by id | by sentence | on test, by id | by sentence |")
    print("|---|---|---|---|---|---|")
    for loss in LOSSES:
        found = {}
        for seed, mask in product(SEEDS, MASKS):
            found[seed, mask] = measured(args, loss, mask, seed)
        for mask in MASKS:
            cells = [shown(found[seed, mask][column] for seed in SEEDS) for column in range(4)]
            print(f"| {loss} | {'masked' if mask == 'true' else 'negatives'} | {' | '.join(cells)} |")
        apart = [
            shown(found[seed, "true"][column] - found[seed, "false"][column] for seed in SEEDS)
            for column in range(4)
        ]
        print(f"| {loss} | difference | {' | '.join(apart)} |", flush=True)


def measured(args: argparse.Namespace, loss: str, mask: str, seed: int) -> list[float]:
    """Return rsum on dev and test by each rule, of a run that is trained if it is not there."""
    name = f"{loss}_{mask}_{seed}"
    run = args.folder / name
    settings = [f"DATASET.DATA_DIR={args.data.resolve()}", f"RUNTIME.THREADS={args.threads}"]
    if not (run / "trained").exists():
        words = [*LOSSES[loss], f"LOSS.MASK_DUPLICATES={mask}", f"MISC.SEED={seed}"]
        words += [f"OUTPUT.CHECKPOINT_DIR={args.folder.resolve()}", f"OUTPUT.SAVE_NAME={name}"]
        config = ROOT / "configs" / "rsicd" / "vsepp.yaml"
        tool("train_retrieval", "--cfg_file", config, "--overwrite", *settings, *words)
        (run / "trained").touch()
    rsums = []
    for split, rule in product(("dev", "test"), RULES):
        out = run / f"{split}_{rule}"
        if not (out / "result.json").exists():
            words = [f"EVAL.SPLIT={split}", f"DATASET.RELEVANCE={rule}", "EVAL.RESAMPLES=0"]
            tool("eval_retrieval", "--cfg_file", run, "--out", out, *settings, *words)
        rsums.append(json.loads((out / "result.json").read_text())["metrics"]["rsum"])
    print(f"{name}: {' '.join(f'{rsum:.1f}' for rsum in rsums)}", file=sys.stderr, flush=True)
    return rsums


def tool(script: str, *words: object) -> None:
    """Run a tool; what it prints is shown if it fails."""
    command = [sys.executable, ROOT / "tools" / f"{script}.py", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{script} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")


def shown(values: object) -> str:
    """Return mean and standard deviation over the seeds."""
    values = np.array(list(values))
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


if __name__ == "__main__":
    main()
