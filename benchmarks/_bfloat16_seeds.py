"""Whether training in bfloat16 ends where training in float32 does: three seeds of each, told by dev.

    python benchmarks/_bfloat16_seeds.py vsepp --data path/to/data
    python benchmarks/_bfloat16_seeds.py oscar --data data --seeds 1 2 3 4 5

`--data` holds rsicd_precomp for vsepp, rsicd_regions_precomp for vsrn, and scenes, which tools/make_scenes.py
draws, for oscar. The recipes are those of configs/. A run's score is the mean recall of its best checkpoint
on dev, in float32. On a processor without instructions for bfloat16 its products are emulated
(tests/emulated_bfloat16.py): the numbers are the same but for the order of sums, and the time says nothing.
A run in --work that has ended is not trained again.
"""

from _report import ROOT, report

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = "BFLOAT16_SEEDS_CHILD"  # in the environment of a process that trains
RECIPES = {
    "vsepp": ("configs/rsicd/vsepp.yaml", "rsicd_precomp", []),
    "vsrn": ("configs/rsicd/vsrn.yaml", "rsicd_regions_precomp", []),
    "oscar": ("configs/scenes/oscar.yaml", "scenes", ["MONITOR.EVAL_FREQ=6"]),
}
KEPT = "dev.json"


def main() -> None:
    """Train all seeds in both precisions, and report the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--work", type=Path, default=Path("out/bfloat16"), metavar="DIR")
    arguments = parser.parse_args()
    arguments.data, arguments.work = arguments.data.absolute(), arguments.work.absolute()
    scores = {
        precision: [score(arguments.model, precision, seed, arguments) for seed in arguments.seeds]
        for precision in ("off", "bfloat16")
    }
    single, lowered = scores.values()
    for precision, found in scores.items():
        listed = ", ".join(f"{each:.2f}" for each in found)
        print(f"{precision}: {listed}; mean {statistics.mean(found):.2f}", flush=True)
    spread = statistics.stdev(single) if len(single) > 1 else 0.0
    claim = f"mean recall on dev of {arguments.model} in bfloat16, of float32's less its deviation"
    report(claim, statistics.mean(lowered), statistics.mean(single) - spread, 1, "points", True)


def score(model: str, precision: str, seed: int, arguments: argparse.Namespace) -> float:
    """Train one seed, unless it is there, and return its mean recall on dev."""
    config, data, settings = RECIPES[model]
    folder = arguments.work / f"{model}_{precision}_seed{seed}"
    if not (folder / KEPT).is_file():
        goes_on = ["--resume"] if (folder / "last").is_dir() else []
        keys = {
            "DATASET.DATA_DIR": arguments.data / data,
            "OUTPUT.CHECKPOINT_DIR": arguments.work,
            "OUTPUT.SAVE_NAME": folder.name,
            "MISC.SEED": seed,
            "RUNTIME.AMP": precision,
        }
        settings = [*settings, *(f"{key}={value}" for key, value in keys.items())]
        tool = [str(Path(__file__).resolve())] if precision == "bfloat16" else []
        tool += ["tools/train_retrieval.py", "--cfg_file", config, *settings, *goes_on]
        subprocess.run([sys.executable, *tool], cwd=ROOT, check=True, env={**os.environ, CHILD: "1"})
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        found = [line for line in map(json.loads, lines) if "mean_recall" in line]
        best = max(found, key=lambda line: line["rsum"])
        (folder / KEPT).write_text(json.dumps({"mean_recall": best["mean_recall"]}), encoding="utf-8")
    return json.loads((folder / KEPT).read_text(encoding="utf-8"))["mean_recall"]


def train_here(command: list[str]) -> None:
    """Run a tool in this process, with products of bfloat16 emulated where the processor has none."""
    from engine.runtime import set_environment

    set_environment()  # as the tool does, before NumPy is imported
    from models.kernels import onednn

    if not onednn.has_bfloat16():
        from tests.emulated_bfloat16 import emulate_bfloat16

        emulate_bfloat16(setattr)
    sys.argv = command
    sys.path.insert(0, str(ROOT / "tools"))
    runpy.run_path(str(ROOT / command[0]), run_name="__main__")


if __name__ == "__main__":
    if CHILD in os.environ:
        train_here(sys.argv[1:])
    else:
        main()
