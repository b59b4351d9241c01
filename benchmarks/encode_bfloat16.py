"""Encoding captions with VSE++ in bfloat16 against OpenVINO in bfloat16 and PyTorch's int8 GRU.

All sides encode each distinct sentence once, with one set of weights: a GRU of 1,024 over words of 300. The
others take sentences of similar length together, up to 256 of them.
"""

from _race import BFLOAT16, SETTINGS, Side, can_race, corpora, show, write_corpus
from _report import report, rounds_of
from _text_engines import ENGINES, LARGEST_DIFFERENCE, SENTENCES

import contextlib
import importlib.util
import statistics
import tempfile
from pathlib import Path

import numpy as np

IMAGES, ROUNDS, GOALS = 1000, 5, {"openvino": 1.3, "torch": 1.05}


def main() -> None:
    claim = "VSE++ caption encoding in bfloat16"
    if not can_race((BFLOAT16,), claim):
        return
    missing = [name for name in ENGINES if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{claim}, against {ENGINES[name]}: not here, since the package {name} is not", flush=True)
    others = [name for name in ENGINES if name not in missing and "torch" not in missing]
    captions_of = corpora("encode", IMAGES * SETTINGS["vsepp"].captions_per_image)
    for corpus in list(captions_of)[1:] or list(captions_of):
        print(f"{corpus}:", flush=True)
        race_engines(captions_of[corpus], others, claim, corpus)


def race_engines(captions: list[str], others: list[str], claim: str, corpus: str) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_corpus(folder, captions, IMAGES, "vsepp")
        sides = {}  # the first one writes the weights
        for name in ("ours", *others):
            side = Side("_text_engines.py", "encode", "vsepp", str(folder), name)
            sides[name] = stack.enter_context(side)
        results = {name: np.load(folder / f"{name}.npy") for name in sides}
        turns = [
            {name: show(name, side.turn()) for name, side in sides.items()} for _ in range(rounds_of(ROUNDS))
        ]
    speeds = {name: statistics.median(turn[name] for turn in turns) for name in sides}
    for name in others:
        difference = np.abs(results[name] - results["ours"]).max()
        print(f"{name}: largest difference of a number from ours: {difference:.1e}", flush=True)
        if difference > LARGEST_DIFFERENCE:
            raise RuntimeError(f"ours and {ENGINES[name]} disagree: there is nothing to compare")
        measured = speeds["ours"], speeds[name]
        full = f"{claim}, against {ENGINES[name]}, {corpus}"
        report(full, *measured, GOALS[name], SENTENCES, higher_is_better=True)


if __name__ == "__main__":
    main()
