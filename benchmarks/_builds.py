"""A race of this build, in float32 and in bfloat16, against an earlier build of the same toolkit.

The earlier build is checked out from the repository's history into a folder that the benchmark makes and
removes. All sides run their own `_ours.py` on copies of one corpus, and measure in turns.
"""

from _oscar_corpus import pad_vocabulary
from _race import OURS, SETTINGS, Side, can_race, corpora, show, write_corpus
from _report import ROOT, report, rounds_of
from prepare_pairs import CAPTIONS, IMAGES, write_corpus as write_pairs

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

EARLIER = "79f190b"  # the commit that the goals speak of


def race_builds(task: str, model: str, images: int, goals: dict[str, float], claim: str) -> None:
    """Race the builds on the captions of RSICD and Flickr30k, or on random words without them.

    `task` is train or encode; `goals` has the ratio to reach of each precision.
    """
    captions_of = corpora(task, images * SETTINGS[model].captions_per_image)
    for corpus in list(captions_of)[1:] or list(captions_of):
        print(f"{corpus}:", flush=True)
        _race(
            task,
            model,
            lambda folder, captions=captions_of[corpus]: write_corpus(folder, captions, images, model),
            goals,
            f"{claim}, {corpus}",
        )


def race_oscar_builds(task: str, goals: dict[str, float], claim: str) -> None:
    """Race the builds on Oscar's pairs; `task` is train or score."""
    corpus, captions = list(corpora("train", IMAGES * CAPTIONS).items())[-1]

    def write(folder: Path) -> None:
        write_pairs(folder, captions)
        pad_vocabulary(folder / "vocab.txt")

    _race(task, "oscar", write, goals, f"{claim}, {corpus}")


def _race(task: str, model: str, write: Callable[[Path], None], goals: dict[str, float], claim: str) -> None:
    with contextlib.ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        earlier = stack.enter_context(earlier_build(room / "build"))
        (room / "corpus").mkdir()
        write(room / "corpus")
        here, setting = Path(__file__).resolve().parent, SETTINGS[model]
        places = {"earlier": earlier / "benchmarks", **dict.fromkeys(goals, here)}
        sides = {}
        for name, place in places.items():
            if not can_race((name,), f"{claim}, {name}"):
                continue
            folder = shutil.copytree(room / "corpus", room / name)
            precision = [] if name == "earlier" else [name]
            side = Side(str(place / setting.ours), task, model, folder, *precision)
            sides[name] = stack.enter_context(side)
        if task != "train":
            _compare(room, list(sides))
        turns = [
            {name: show(name, side.turn()) for name, side in sides.items()}
            for _ in range(rounds_of(setting.rounds))
        ]
        speeds = {name: statistics.median(turn[name] for turn in turns) for name in sides}
        for name in goals.keys() & sides.keys():
            measured = speeds[name], speeds["earlier"]
            report(f"{claim}, {name}", *measured, goals[name], "a second", higher_is_better=True)


def _compare(room: Path, names: list[str]) -> None:
    """Print how far the results of each build are from those of the earlier one."""
    results = {name: np.load(room / name / OURS) for name in names}
    for name in names[1:]:
        difference = np.abs(results[name] - results["earlier"]).max()
        print(f"{name}: largest difference of the results: {difference:.1e}", flush=True)


def earlier_build(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Check the earlier build out into `folder`, and forget it after the block."""
    return checkout(folder, EARLIER)


@contextlib.contextmanager
def checkout(folder: Path, commit: str) -> Iterator[Path]:
    """Check a build out into `folder`, and forget it after the block."""
    _git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"git {' '.join(arguments)}: {done.stderr.strip()}; a clone with its history is needed"
        )
