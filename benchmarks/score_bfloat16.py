"""Scoring pairs with Oscar, BERT-base, in bfloat16 against OpenVINO in bfloat16, as score_oscar.py scores.

OpenVINO runs the twin, converted with its weights. Both sides take pairs of similar length together: OpenVINO
pads a batch to its longest caption and its most regions, and ours computes no padding.
"""

from _oscar_corpus import oscar_corpus
from _race import BFLOAT16, OURS, TWIN, Side, can_race, show
from _report import alternate, report

import importlib.util

import numpy as np

ROUNDS, GOAL, LARGEST_DIFFERENCE = 5, 1, 0.05


def main() -> None:
    claim = "Oscar scoring, BERT-base, in bfloat16, against OpenVINO in bfloat16"
    if not can_race((BFLOAT16,), claim):
        return
    missing = [name for name in ("torch", "openvino") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{claim}: not here, since the package {missing[0]} is not", flush=True)
        return
    with (
        oscar_corpus() as (corpus, folder),
        Side("_ours_oscar.py", "score", "oscar", folder, BFLOAT16) as ours,
        Side("_pair_engine.py", "score", "oscar", folder) as other,
    ):
        scores = np.load(folder / OURS), np.load(folder / TWIN)
        difference = np.abs(scores[0] - scores[1]).max()
        print(f"largest difference of the scores: {difference:.1e}", flush=True)
        if difference > LARGEST_DIFFERENCE:
            raise RuntimeError("ours and OpenVINO disagree: there is nothing to compare")
        turns = (lambda: show("ours", ours.turn()), lambda: show("OpenVINO", other.turn()))
        measured = alternate(*turns, ROUNDS)
    report(f"{claim}, {corpus}", *measured, goal=GOAL, unit="pairs/s", higher_is_better=True)


if __name__ == "__main__":
    main()
