"""Show the whole toolkit on pictures that it draws: generate, train, evaluate, search, report.

    make demo          (or: python tools/demo.py)

Each step is a command that can be run alone; it is printed above its output. Independent steps run in
parallel, one on each core: two models with a core each finish sooner than one after the other on both cores.
"""

import argparse
import os
import sys
import time

import _init_paths
from _command import leave_on_sigterm, run
from _side_by_side import Step, run_side_by_side

from config.command_line import report_errors_on_one_line
from engine.runtime import usable_cores

DATA = "data/scenes"
OUT = "out/demo"
MODELS = ("vsepp", "vsrn", "vse")
# Oscar re-ranks the short lists of the others; the weight was chosen on dev (docs/reranking.md).
RERANK = (f"EVAL.RERANK_DIR={OUT}/oscar/best", "EVAL.RERANK_DUAL_WEIGHT=5")
QUERY = "a red circle left of a blue square"
IMAGE = "test_000109"


def main() -> int:
    """Run the demo's steps, one stage after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.parse_args()
    leave_on_sigterm()
    started = time.monotonic()
    drawing = step("Draw 2,400 pictures with five captions each", "make_scenes.py", "--out", DATA)
    for steps in ([drawing], trainings(), evaluations() + searches(), [report()]):
        code = run_stage(steps)
        if code:
            print(f"the demo stopped: the last command ended with exit code {code}", file=sys.stderr)
            return code
    page = os.path.relpath(_init_paths.ROOT / OUT / "report.html")
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Open {page} in a browser.")
    return 0


def step(title: str, tool: str, *arguments: str) -> Step:
    """Return a step that runs one of the tools."""
    return Step(title, (f"tools/{tool}", *arguments))


def trainings() -> list[Step]:
    """Return a training for each model; the two longest are first, so that no core idles at the end."""
    steps = []
    for model in ("vsrn", "oscar", "vsepp", "vse"):
        here = f"OUTPUT.CHECKPOINT_DIR={OUT}", f"OUTPUT.SAVE_NAME={model}", "--overwrite"
        config = f"configs/scenes/{model}.yaml"
        steps.append(step(f"Train {model}", "train_retrieval.py", "--cfg_file", config, *here))
    return steps


def evaluations() -> list[Step]:
    """Return an evaluation for each dual encoder."""
    title = "Evaluate {} on the test split, alone and re-ranked by oscar"
    tool, run_config = "eval_retrieval.py", OUT + "/{}/config.yaml"
    return [step(title.format(m), tool, "--cfg_file", run_config.format(m), *RERANK) for m in MODELS]


def searches() -> list[Step]:
    """Return searches by sentence and by picture, and an explanation of VSRN's score."""
    search = "search_retrieval.py", "--cfg_file", f"{OUT}/{MODELS[0]}/config.yaml"
    reranked = "--out", f"{OUT}/search_reranked", *RERANK
    looking = "--cfg_file", f"{OUT}/vsrn/config.yaml", "--image", IMAGE, "--text", QUERY
    return [
        step("Search by sentence", *search, "--text", QUERY),
        step("Search by sentence, re-ranked by oscar", *search, "--text", QUERY, *reranked),
        step("Search by picture", *search, "--image", IMAGE),
        step("Look where VSRN looks", "visualize.py", *looking),
    ]


def report() -> Step:
    """Return the step that writes the report."""
    runs = [f"{OUT}/{model}" for model in MODELS]
    page = f"{OUT}/report.html"
    return step("Write the report", "make_report.py", *runs, "--out", page, "--title", "Scenes")


def run_stage(steps: list[Step]) -> int:
    """Run independent steps; return 0, or the exit code of a step that failed."""
    cores = usable_cores()
    lanes = min(cores, len(steps))
    if lanes > 1:
        print(
            f"\n{len(steps)} commands follow, {lanes} at a time; each one's output is shown whole.",
            flush=True,
        )
    environment = {"OMP_NUM_THREADS": str(cores // lanes), **os.environ}
    return run_side_by_side(steps, lanes, _init_paths.ROOT, environment)


if __name__ == "__main__":
    run(main)
