"""What a training step of VSE++ costs besides its batch, against an earlier build; sizes of train_vsepp.py.

A step of 32 pairs and one of 128 give a line, seconds = fixed + each * pairs, and `fixed` is compared. Both
builds train the same captions in turns.
"""

from _builds import earlier_build
from _race import SETTINGS, Side, corpora, write_corpus
from _report import ROOT, report, rounds_of

import contextlib
import shutil
import statistics
import tempfile
from pathlib import Path

IMAGES, FEW, MANY, TURNS = 6000, 32, 128, 15


def main() -> None:
    corpus, captions = list(corpora("train", IMAGES * SETTINGS["vsepp"].captions_per_image).items())[-1]
    with contextlib.ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        roots = {"earlier": stack.enter_context(earlier_build(room / "build")), "ours": ROOT}
        (room / "corpus").mkdir()
        write_corpus(room / "corpus", captions, IMAGES, "vsepp")
        sides = {}
        for name, root in roots.items():
            for pairs in (FEW, MANY):
                folder = shutil.copytree(room / "corpus", room / f"{name}_{pairs}")
                side = Side("_steps_of.py", "train", "vsepp", str(folder), str(root), str(pairs))
                sides[name, pairs] = stack.enter_context(side)
        turns = [
            {key: key[1] / side.turn()["per_second"] for key, side in sides.items()}
            for _ in range(rounds_of(TURNS))
        ]
    seconds = {key: statistics.median(turn[key] for turn in turns) for key in sides}
    fixed = {}
    for name in roots:
        few, many = seconds[name, FEW], seconds[name, MANY]
        each = (many - few) / (MANY - FEW)
        fixed[name] = few - FEW * each
        print(
            f"{name}: {few:.4g} s with {FEW} pairs, {many:.4g} s with {MANY}, {each:.3g} s a pair", flush=True
        )
    claim = f"VSE++ training against 79f190b: what a step costs besides its pairs, {corpus}"
    report(claim, fixed["ours"], fixed["earlier"], 2, "s", higher_is_better=False)


if __name__ == "__main__":
    main()
