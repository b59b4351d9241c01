"""What a report says in a sentence, and what stands behind its numbers: intervals, chance, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.certificates.sides import Certified


@dataclass(frozen=True)
class Judged:
    """One run as a verdict sees it: its name, its metrics, and what is certified of them (empty: nothing)."""

    name: str
    metrics: Mapping[str, float]
    certified: Mapping[str, Certified] = field(default_factory=dict)

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95% interval of a metric, None where none was computed."""
        found = self.certified.get(metric)
        return (found.interval.low, found.interval.high) if found else None

    def chance(self, metric: str) -> float | None:
        """Return what random scores reach, None where that was not computed."""
        found = self.certified.get(metric)
        return found.chance if found else None


def verdict(runs: Sequence[Judged], what: Mapping[str, str], total: str, total_name: str) -> str:
    """Return one or two sentences: what the best run reaches, and whether another is as good.

    `what` says of one or two metrics, in percent, what is found, such as {"t2i_r1": "sentences find their own
    picture first"}. The best run has the highest `total`, a metric that the sentence calls `total_name`.
    """
    best = max(runs, key=lambda run: run.metrics.get(total, 0.0))
    reached = [
        f"{best.metrics[metric]:.1f}% of the {found}{_certainty(best, metric)}"
        for metric, found in what.items()
        if metric in best.metrics
    ]
    first = f"With {best.name}, {' and '.join(reached)}." if reached else ""
    others = [run for run in runs if run is not best]
    if not others:
        return first
    second = max(others, key=lambda run: run.metrics.get(total, 0.0))
    ours, theirs = best.metrics[total], second.metrics[total]
    if f"{ours:.1f}" == f"{theirs:.1f}":
        return f"{first} By {total_name} it equals {second.name} ({ours:.1f})."
    apart = _apart(best, second, total)
    return f"{first} By {total_name} it is ahead of {second.name}, {ours:.1f} to {theirs:.1f}{apart}."


def _certainty(run: Judged, metric: str) -> str:
    interval, chance = run.interval(metric), run.chance(metric)
    said = [f"95% interval {interval[0]:.1f} to {interval[1]:.1f}"] if interval else []
    said += [f"chance {chance:.1f}"] if chance is not None else []
    return f" ({', '.join(said)})" if said else ""


def _apart(best: Judged, second: Judged, metric: str) -> str:
    ours, theirs = best.interval(metric), second.interval(metric)
    if ours is None or theirs is None:
        return ""
    if ours[0] > theirs[1]:
        return "; their 95% intervals do not touch"
    return "; their 95% intervals overlap, so this alone does not show that it is better"


def chance_row(runs: Sequence[Judged], columns: Sequence[str]) -> list[float | None]:
    """Return what random scores reach in each of `columns`; empty where no run is certified."""
    known = [
        next((run.chance(name) for run in runs if run.chance(name) is not None), None) for name in columns
    ]
    return known if any(each is not None for each in known) else []
