"""A side that scores pairs with Oscar by OpenVINO in bfloat16: `python _pair_engine.py score oscar FOLDER`.

It reads the weights that our side has written, and takes pairs of similar length together.
"""

from _oscar_corpus import cross_pairs
from _race import TWIN, WEIGHTS, measure_turns
from _twin_oscar import OscarTwin, match_scores, pad

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.runtime import usable_cores

PAIRS = 16  # in a batch


def scorer(twin: OscarTwin) -> Callable[[], np.ndarray]:
    """Return what scores the pairs of a cross evaluation, in the order in which the twin does."""
    import openvino
    import torch

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = twin.model.eval()

        def forward(
            self, ids: torch.Tensor, segments: torch.Tensor, mask: torch.Tensor, regions: torch.Tensor
        ):
            return match_scores(self.model(ids, segments, mask, regions))

    pairs = cross_pairs(twin.dataset)
    order = np.argsort(twin.dataset.pair_lengths(pairs), kind="stable")
    places = [order[start : start + PAIRS] for start in range(0, len(order), PAIRS)]

    def inputs(rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        batch = twin.dataset.batch(pairs[rows])
        return pad(batch, batch["token_ids"].shape[1], int(batch["num_regions"].max()))

    example = inputs(places[0])
    shapes = [[-1] * each.ndim for each in example]
    shapes[-1][-1] = example[-1].shape[-1]
    model = openvino.convert_model(Scores(), example_input=example, input=shapes)
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()

    def score() -> np.ndarray:
        scores = np.empty(len(pairs), np.float32)
        for rows in places:
            scores[rows] = request.infer([each.numpy() for each in inputs(rows)])[0]
        return scores

    return score


def main() -> None:
    folder = Path(sys.argv[3])
    twin = OscarTwin(folder)
    twin.load(dict(np.load(folder / WEIGHTS)))
    measure_turns(scorer(twin), folder / TWIN)


if __name__ == "__main__":
    main()
