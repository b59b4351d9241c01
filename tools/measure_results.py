"""Train and evaluate the recipes of docs/results/recipes.json with all their seeds, and keep the results.

    python tools/measure_results.py rsicd_vsepp --data path/to/data
    python tools/measure_results.py --all --data path/to/data --work out/results

A recipe names a task file, a folder of --data, seeds and further settings. A seed that has its result in
docs/results is not measured again, a run in --work that has ended is not trained again, and a training that
was stopped goes on, so that the same command goes on after an interruption. A recipe with "starts_from" goes
on from another recipe's run of the same seed, one with "lists_of" has the lists of such a run re-ranked by
that of "ranked_by", and one with "members" evaluates such runs as an ensemble, with the settings of
"evaluation". A recipe with "floor" is
measured by tools/measure_floor.py. With "split": "dev" a recipe is a trial, which test does not see. At the
end the tables of docs/results.md and README.md are written (tools/write_results.py).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError, some
from config.files.whole import write_whole
from engine.runs.run_status import read_status

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
MINUTES_FILE = "minutes.json"
KEPT = ("metrics", "certificate", "protocol", "lists", "versions")


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="RECIPE", help="recipes to measure")
    parser.add_argument("--all", action="store_true", help="measure all recipes")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument(
        "--work", type=Path, default=Path("out/results"), metavar="DIR", help="folder of the runs"
    )
    report_errors_on_one_line(parser)
    arguments = parser.parse_args()
    recipes = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))
    unknown = [name for name in arguments.names if name not in recipes]
    if unknown or not (arguments.names or arguments.all):
        got = some(unknown) or "none"
        raise UserError(f"expected some of {', '.join(recipes)} or --all, got {got}")
    bench = Bench(recipes, arguments.data.absolute(), arguments.work.absolute())
    for name in recipes if arguments.all else arguments.names:
        for seed in recipes[name]["seeds"]:
            bench.measure(name, seed)
    return subprocess.run([sys.executable, str(ROOT / "tools" / "write_results.py")]).returncode


@dataclass(frozen=True)
class Bench:
    """Trains and evaluates `recipes` with the data sets in the folder `data`; its runs are in `work`."""

    recipes: dict[str, dict]
    data: Path
    work: Path

    def measure(self, name: str, seed: int) -> None:
        """Keep the result of one seed of a recipe, unless it is there; raise UserError if a tool fails."""
        target = RESULTS / f"{name}_seed{seed}.json"
        if target.is_file():
            print(f"{target.name} is there", flush=True)
            return
        recipe, folder = self.recipes[name], self.work / f"{name}_seed{seed}"
        split, trained = recipe.get("split", "test"), []
        if "members" in recipe:
            trained = [self.run_of(member, seed) for member in recipe["members"]]
            content = together(trained, folder, [f"EVAL.SPLIT={split}", *recipe.get("evaluation", [])])
        elif "lists_of" in recipe:
            dual, cross = (self.run_of(recipe[key], seed) for key in ("lists_of", "ranked_by"))
            trained, content = [cross], rerank(dual, cross, folder, recipe["dual_weight"])
        elif recipe.get("floor"):
            settings = [*self.settings(name, seed), f"EVAL.SPLIT={split}"]
            tool("measure_floor", "--cfg_file", recipe["config"], *settings, "--out", str(folder))
            content = read(folder)
        else:
            trained = [self.run_of(name, seed)]
            content = alone(trained[0], split)
        keep(content, target, name, seed, trained)

    def run_of(self, name: str, seed: int) -> Path:
        """Return the folder of a recipe's run, which is trained if it is not there."""
        folder = self.work / f"{name}_seed{seed}"
        if read_status(folder, datetime.now(timezone.utc))["state"] != "finished":
            self.train(name, seed)
        return folder

    def settings(self, name: str, seed: int) -> list[str]:
        """Return the settings of one seed of a recipe that go over its task file."""
        recipe = self.recipes[name]
        return [
            *(setting.replace("{data}", str(self.data)) for setting in recipe.get("settings", [])),
            f"DATASET.DATA_DIR={self.data / recipe['data']}",
            f"OUTPUT.CHECKPOINT_DIR={self.work}",
            f"OUTPUT.SAVE_NAME={name}_seed{seed}",
            f"MISC.SEED={seed}",
        ]

    def train(self, name: str, seed: int) -> None:
        """Train one seed, or go on where it was stopped; the run keeps the minutes of a whole training."""
        recipe, settings = self.recipes[name], self.settings(name, seed)
        folder = self.work / f"{name}_seed{seed}"
        if "starts_from" in recipe:
            settings.append(f"PRETRAINED.DIR={self.run_of(recipe['starts_from'], seed) / 'best'}")
        goes_on = (folder / "last").is_dir()
        before, start = processor_seconds(), time.monotonic()
        tool("train_retrieval", "--cfg_file", recipe["config"], *settings, *(["--resume"] if goes_on else []))
        if goes_on:  # what was trained before the stop was not timed
            return
        minutes = (time.monotonic() - start) / 60, (processor_seconds() - before) / 60
        timed = {"minutes": round(minutes[0], 1), "processor_minutes": round(minutes[1], 1)}
        write_whole(folder / MINUTES_FILE, json.dumps(timed) + "\n")


def processor_seconds() -> float:
    """Return the processor time of all tools that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def alone(folder: Path, split: str) -> dict:
    """Evaluate the run in `folder` on `split` and return the content of the result."""
    tool("eval_retrieval", "--cfg_file", str(folder / "config.yaml"), f"EVAL.SPLIT={split}")
    return read(folder / f"eval_{split}")


def together(runs: list[Path], folder: Path, settings: list[str]) -> dict:
    """Evaluate an ensemble of `runs` with equal weights and return the content of the result."""
    members = [str(one / "best") for one in runs]
    tool("eval_retrieval", "--checkpoints", *members, "--out", str(folder), *settings)
    return read(folder)


def rerank(dual: Path, cross: Path, folder: Path, weight: float | str) -> dict:
    """Re-rank the lists of the run `dual` with the run `cross`, and return the content of the result.

    Results are written into `folder`. `weight` is that of the dual encoder's score; "dev" chooses the one of
    the best rsum on dev.
    """
    command = ["--cfg_file", str(dual / "config.yaml"), f"EVAL.RERANK_DIR={cross / 'best'}"]
    if weight == "dev":
        tool("eval_retrieval", *command, "EVAL.SPLIT=dev", "--out", str(folder / "dev"))
        weight = best_weight(read(folder / "dev")["rerank"]["weighted"])
    tool("eval_retrieval", *command, f"EVAL.RERANK_DUAL_WEIGHT={weight}", "--out", str(folder))
    content = read(folder)
    reranked = content["rerank"]
    further = {key: reranked[key] for key in ("k", "pairs_scored", "all_pairs", "dual_weight")}
    kept = {key: reranked[key] for key in ("metrics", "certificate", "checkpoint") if key in reranked}
    return content | kept | {"lists": further | {"checkpoint": identity(content["checkpoint"])}}


def best_weight(weighted: list[dict]) -> float:
    """Return the weight of the highest rsum, the smallest one among equals."""
    return max(weighted, key=lambda one: (one["metrics"]["rsum"], -one["dual_weight"]))["dual_weight"]


def tool(script: str, *words: str) -> None:
    """Run a tool; raise UserError if it fails."""
    command = [sys.executable, str(ROOT / "tools" / f"{script}.py"), *words]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"{script} failed: mend what it says above, then start the same command again")


def read(folder: Path) -> dict:
    """Return the content of the result in `folder`."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def identity(checkpoint: dict) -> dict:
    """Return what tells a checkpoint, or those of an ensemble, from others, without the places of files."""
    if "members" in checkpoint:
        return {"members": [identity(member) for member in checkpoint["members"]]}
    return {key: checkpoint[key] for key in ("model", "step", "sha256", "penalty") if key in checkpoint}


def keep(content: dict, target: Path, name: str, seed: int, trained: list[Path]) -> None:
    """Keep what docs/results.md shows of a result of the runs `trained`, without the places of files."""
    kept = {"recipe": name, "seed": seed, **{key: content[key] for key in KEPT if key in content}}
    kept["checkpoint"] = identity(content["checkpoint"])
    if trained and all((run / MINUTES_FILE).is_file() for run in trained):
        kept["training"] = minutes_of(trained)
    write_whole(target, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"written: {target}", flush=True)


def minutes_of(runs: list[Path]) -> dict[str, float]:
    """Return the minutes that the trainings of `runs` took in all."""
    timed = [json.loads((run / MINUTES_FILE).read_text(encoding="utf-8")) for run in runs]
    return {name: round(sum(each[name] for each in timed), 1) for name in timed[0]}


if __name__ == "__main__":
    run(main)
