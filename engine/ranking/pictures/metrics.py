"""Metrics of image-to-image retrieval: recall at 1, 10, 100 and 1000, MAP@R and R-precision."""

import numpy as np

from engine.ranking.metrics import recall_at_k

IMAGE_RECALLS = (1, 10, 100, 1000)


def summarize_images(
    ranks: np.ndarray, average_precision: np.ndarray, r_precision: np.ndarray
) -> dict[str, float]:
    """Return every metric of image retrieval in percent.

    `ranks` [C] are the 0-based ranks of each query's best relevant item; `average_precision` (at R) and
    `r_precision` [C] are in [0, 1]. The keys are r1, r10, r100, r1000, `map_at_r` (arXiv 2003.08505, sec.
    3.3) and `r_precision`.
    """
    summary = {f"r{k}": recall_at_k(ranks, k) for k in IMAGE_RECALLS}
    summary["map_at_r"] = 100.0 * float(np.mean(average_precision))
    summary["r_precision"] = 100.0 * float(np.mean(r_precision))
    return summary
