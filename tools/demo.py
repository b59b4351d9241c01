"""Show the whole toolkit on pictures that it draws itself: generate, train, evaluate, search, report.

    make demo          (or: python tools/demo.py)

Each step is a command that works by itself; it is printed above what it says. Steps that do not need each
other run at the same time, one on each core: a second core helps a second model more than it helps the first.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

import _init_paths
from _command import leave_on_sigterm, run
from _side_by_side import Step, run_side_by_side

from config.arguments import report_errors_on_one_line
from engine.runtime import usable_cores

DATA = "data/scenes"
OUT = "out/demo"
MODELS = ("vsepp", "vsrn", "vse")
# Oscar puts the short lists of the others in order; the weight was chosen on dev (docs/reranking.md).
RERANK = (f"EVAL.RERANK_DIR={OUT}/oscar/best", "EVAL.RERANK_DUAL_WEIGHT=5")
QUERY = "a red circle left of a blue square"
IMAGE = "test_000109"


def main() -> int:
    """Run the demo's steps, as many at a time as there are cores or models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.parse_args()
    leave_on_sigterm()
    started = time.monotonic()
    cores = usable_cores()
    lanes = min(cores, len(MODELS) + 1)
    if lanes > 1:
        print(f"Up to {lanes} commands run at a time; the lines of each are shown in one piece.", flush=True)
    environment = {"OMP_NUM_THREADS": str(cores // lanes), **os.environ}
    code = run_side_by_side(demo_steps(cores), lanes, _init_paths.ROOT, environment)
    if code:
        print(f"the demo stopped: the last command ended with exit code {code}", file=sys.stderr)
        return code
    page = os.path.relpath(_init_paths.ROOT / OUT / "report.html")
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Open {page} in a browser.")
    print("To search its pictures there: make serve")
    return 0


def demo_steps(cores: int) -> list[Step]:
    """Return all steps: the drawing, trainings, searches, evaluations and the report."""
    drawing = step("Draw 2,400 pictures with five captions each", (), "make_scenes.py", "--out", DATA)
    # The longest two begin, so that no core is idle while the other trains to its end. Oscar is the last to
    # end: its threads share their work as they are free, and so take what other commands leave of all cores.
    settings = {"vsrn": (), "oscar": (f"RUNTIME.THREADS={cores}",), "vsepp": (), "vse": ()}
    trainings = {model: training(model, drawing, *settings[model]) for model in settings}
    evaluations = [evaluation(model, (trainings[model], trainings["oscar"])) for model in MODELS]
    page = *(f"{OUT}/{model}" for model in MODELS), "--out", f"{OUT}/report.html", "--title", "Scenes"
    report = step("Write the report", evaluations, "make_report.py", *page)
    return [drawing, *trainings.values(), *searches(trainings), *evaluations, report]


def step(title: str, needs: Sequence[Step], tool: str, *arguments: str) -> Step:
    """Return a step that runs one of the tools when those that it needs have ended."""
    return Step(title, (f"tools/{tool}", *arguments), tuple(needs))


def training(model: str, drawing: Step, *settings: str) -> Step:
    """Return the training of a model with further `settings`."""
    here = f"OUTPUT.CHECKPOINT_DIR={OUT}", f"OUTPUT.SAVE_NAME={model}", "--overwrite"
    config = "--cfg_file", f"configs/scenes/{model}.yaml"
    return step(f"Train {model}", [drawing], "train_retrieval.py", *config, *here, *settings)


def evaluation(model: str, needs: Sequence[Step]) -> Step:
    """Return the evaluation of a dual encoder."""
    title = f"Evaluate {model} on the test split, alone and re-ranked by oscar"
    return step(title, needs, "eval_retrieval.py", "--cfg_file", f"{OUT}/{model}/config.yaml", *RERANK)


def searches(trainings: dict[str, Step]) -> list[Step]:
    """Return searches by picture and by sentence, and a look into VSRN."""
    first = MODELS[0]
    trained, oscar = trainings[first], trainings["oscar"]
    search = "search_retrieval.py", "--cfg_file", f"{OUT}/{first}/config.yaml"
    reranked = *search, "--text", QUERY, "--out", f"{OUT}/search_reranked", *RERANK
    looking = "--cfg_file", f"{OUT}/vsrn/config.yaml", "--image", IMAGE, "--text", QUERY
    return [
        step("Search by picture", [trained], *search, "--image", IMAGE),
        step("Look where VSRN looks", [trainings["vsrn"]], "visualize.py", *looking),
        step("Search by sentence", [trained], *search, "--text", QUERY),
        step("Search by sentence, re-ranked by oscar", [trained, oscar], *reranked),
    ]


if __name__ == "__main__":
    run(main)
