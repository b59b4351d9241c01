"""Show the whole toolkit on pictures that it draws itself: generate, train, evaluate, search, report.

    make demo          (or: python tools/demo.py)

Each step is a command that works by itself; it is printed before it runs.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time

import _init_paths
from _command import run

from config.command_line import report_errors_on_one_line

DATA = "data/scenes"
OUT = "out/demo"
MODELS = ("vsepp", "vsrn", "vse")
# Oscar puts the short lists of the others in order; the weight was chosen on dev (docs/reranking.md).
RERANK = (f"EVAL.RERANK_DIR={OUT}/oscar/best", "EVAL.RERANK_DUAL_WEIGHT=5")
QUERY = "a red circle left of a blue square"
IMAGE = "test_000109"


def main() -> int:
    """Run the demo's commands, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report_errors_on_one_line(parser)
    parser.parse_args()
    started = time.monotonic()
    step("Draw 2,400 pictures with five captions each", "make_scenes.py", "--out", DATA)
    for model in (*MODELS, "oscar"):
        here = f"OUTPUT.CHECKPOINT_DIR={OUT}", f"OUTPUT.SAVE_NAME={model}"
        config = f"configs/scenes/{model}.yaml"
        step(f"Train {model}", "train_retrieval.py", "--cfg_file", config, *here, "--overwrite")
    for model in MODELS:
        measured = "eval_retrieval.py", "--cfg_file", f"{OUT}/{model}/config.yaml"
        step(f"Evaluate {model} on the test split, alone and re-ranked by oscar", *measured, *RERANK)
    searched = "search_retrieval.py", "--cfg_file", f"{OUT}/{MODELS[0]}/config.yaml"
    step("Search by sentence", *searched, "--text", QUERY)
    reranked = "--out", f"{OUT}/search_reranked", *RERANK
    step("Search by sentence, re-ranked by oscar", *searched, "--text", QUERY, *reranked)
    step("Search by picture", *searched, "--image", IMAGE)
    looking = "--cfg_file", f"{OUT}/vsrn/config.yaml", "--image", IMAGE, "--text", QUERY
    step("Look where VSRN looks", "visualize.py", *looking)
    runs = [f"{OUT}/{model}" for model in MODELS]
    step("Write the report", "make_report.py", *runs, "--out", f"{OUT}/report.html", "--title", "Scenes")
    report = os.path.relpath(_init_paths.ROOT / OUT / "report.html")
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Open {report} in a browser.")
    return 0


def step(title: str, tool: str, *arguments: str) -> None:
    """Print and run one of the tools; stop the demo when it fails."""
    command = [f"tools/{tool}", *arguments]
    print(f"\n--- {title}\n$ python {shlex.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command], cwd=_init_paths.ROOT, check=False).returncode
    if code:
        print(f"the demo stopped: the command above ended with exit code {code}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    run(main)
