"""Decides from the evidence whether a bundle may be written, and words the proof that it carries."""

import numpy as np

from config.errors import UserError
from engine.export.evidence import NEAR, Evidence

LARGEST_DIFFERENCE = 1e-4  # of an embedding's numbers, in float32


def state_proof(evidence: Evidence, precision: str, quantised: int, max_loss: float) -> dict:
    """Return the proof that goes into a bundle.

    In float32 the graphs must agree: no number may differ by more than `LARGEST_DIFFERENCE`, and no rank may
    change by more than the number of rivals that rounding alone puts before or behind. In other precisions
    the mean recall may fall by at most `max_loss` points. Raises UserError for graphs that do not hold this.
    """
    changed = evidence.before != evidence.after
    beyond = np.abs(evidence.before - evidence.after) > evidence.near
    loss = evidence.metrics_before["mean_recall"] - evidence.metrics_after["mean_recall"]
    difference = max(float(evidence.difference), evidence.ragged)
    proof = {
        **evidence.counts,
        "largest_difference": float(evidence.difference),
        "largest_difference_ragged": float(evidence.ragged),
        "ranks": len(evidence.before),
        "ranks_changed": int(changed.sum()),
        "ranks_changed_beyond_rounding": int(beyond.sum()),
        "rounding": NEAR,
        "mean_recall_lost": round(loss, 4),
        "before": evidence.metrics_before,
        "after": evidence.metrics_after,
    }
    if precision == "int8":
        proof["quantised_nodes"] = quantised
    where = f"{evidence.counts['split']}: the exported graphs"
    if not np.isfinite(difference):
        raise UserError(f"{where} make NaN or infinity: nothing was written; report the configuration")
    if precision == "float32":
        if difference > LARGEST_DIFFERENCE or beyond.any():
            raise UserError(
                f"{where} differ from the model by {difference:.1e} (expected at most "
                f"{LARGEST_DIFFERENCE:.0e}), and {beyond.sum()} of {len(beyond)} ranks changed (expected 0): "
                "nothing was written; report the configuration"
            )
    elif loss > max_loss:
        raise UserError(
            f"{where} lose {loss:.2f} points of mean recall in {precision}, expected at most --max_loss "
            f"{max_loss:g}: nothing was written; use float32, or raise --max_loss"
        )
    return proof


def describe_proof(proof: dict) -> list[str]:
    """Return the lines that a user reads about a proof."""
    compared = f"{proof['images']} images"
    if "captions" in proof:
        compared += f" and {proof['captions']} captions"
    return [
        f"proof on {proof['split']} ({compared}): largest difference {proof['largest_difference']:.1e}, on "
        f"ragged batches {proof['largest_difference_ragged']:.1e}",
        f"ranks changed: {proof['ranks_changed']} of {proof['ranks']}, "
        f"{proof['ranks_changed_beyond_rounding']} of them beyond rounding; mean recall "
        f"{proof['before']['mean_recall']:.2f} before, {proof['after']['mean_recall']:.2f} after",
    ]
