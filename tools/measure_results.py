"""Train and evaluate the recipes of docs/results/recipes.json with all their seeds, and keep the results.

    python tools/measure_results.py rsicd_vsepp --data path/to/data
    python tools/measure_results.py --all --data path/to/data --work out/results

A recipe names a task file, a folder of --data, seeds and further settings. A seed that has its result in
docs/results is not measured again, so that the same command goes on after an interruption. At the end the
tables of docs/results.md are written (tools/write_results.py).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import _init_paths  # noqa: F401
from _command import run

from config.arguments import report_errors_on_one_line
from config.errors import UserError, some
from config.files.whole import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
KEPT = ("metrics", "certificate", "protocol", "versions")


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
    for name in recipes if arguments.all else arguments.names:
        for seed in recipes[name]["seeds"]:
            measure(name, recipes[name], seed, arguments.data, arguments.work)
    return subprocess.run([sys.executable, str(ROOT / "tools" / "write_results.py")]).returncode


def measure(name: str, recipe: dict, seed: int, data: Path, work: Path) -> None:
    """Train and evaluate one seed of a recipe, unless its result is there; raise UserError if that fails."""
    target = RESULTS / f"{name}_seed{seed}.json"
    if target.is_file():
        print(f"{target.name} is there", flush=True)
        return
    run_name = f"{name}_seed{seed}"
    settings = [
        *recipe.get("settings", []),
        f"DATASET.DATA_DIR={data / recipe['data']}",
        f"OUTPUT.CHECKPOINT_DIR={work}",
        f"OUTPUT.SAVE_NAME={run_name}",
        f"MISC.SEED={seed}",
    ]
    if "starts_from" in recipe:
        settings.append(f"PRETRAINED.DIR={work / recipe['starts_from'].format(seed=seed) / 'best'}")
    tool("train_retrieval", "--cfg_file", recipe["config"], *settings)
    tool("eval_retrieval", "--cfg_file", str(work / run_name / "config.yaml"))
    folder = work / run_name / "eval_test"
    keep(folder / "result.json", target, name, seed)


def tool(script: str, *words: str) -> None:
    """Run a tool; raise UserError if it fails."""
    command = [sys.executable, str(ROOT / "tools" / f"{script}.py"), *words]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"{script} failed: mend what it says above, then start the same command again")


def keep(result: Path, target: Path, name: str, seed: int) -> None:
    """Keep what docs/results.md shows of a result, without the places of files."""
    content = json.loads(result.read_text(encoding="utf-8"))
    kept = {"recipe": name, "seed": seed, **{key: content[key] for key in KEPT if key in content}}
    kept["checkpoint"] = {key: content["checkpoint"][key] for key in ("model", "step", "sha256")}
    write_whole(target, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"written: {target}", flush=True)


if __name__ == "__main__":
    run(main)
