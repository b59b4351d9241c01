"""Curves: the training of several runs over working time, and re-ranking over its cost."""

import io
from collections.abc import Sequence
from itertools import pairwise

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

LETTERS = {"font.size": 12, "axes.titlesize": 13, "axes.titlelocation": "left", "legend.fontsize": 11}
PERCENT_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
UNITS = ((10_800.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def working_seconds(log: Sequence[dict]) -> list[float]:
    """Return the seconds of work from the first log record to each; pauses after a stop do not count.

    Nor does a step back of the machine's clock.
    """
    seconds = [0.0] if log else []
    for before, after in pairwise(log):
        paused = before["event"] in ("stopped", "failed")
        seconds.append(seconds[-1] + (0.0 if paused else max(0.0, after["time"] - before["time"])))
    return seconds


@rc_context(LETTERS)
def draw_curves(
    logs: Sequence[tuple[str, str, list[dict]]],
    metric: str = "mean_recall",
    label: str = "mean recall on dev, percent",
) -> Image.Image:
    """Return curves of the training loss and of the dev split's `metric`, one curve for each run.

    `logs` holds the name, the colour and the log records of each run.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    loss_axes, recall_axes = figure.subplots(1, 2)
    longest = max((working_seconds(log)[-1] for _, _, log in logs if log), default=0.0)
    size, unit = next((size, unit) for least, size, unit in UNITS if longest >= least)
    for name, colour, log in logs:
        clock = [seconds / size for seconds in working_seconds(log)]
        losses = points(clock, log, "train", "loss")
        scale = abs(losses[0][1]) if losses else 1.0
        relative = [(time, loss / (scale or 1.0)) for time, loss in losses]
        _plot(loss_axes, relative, name, colour, dots=len(relative) == 1)
        _plot(recall_axes, points(clock, log, "validation", metric), name, colour, dots=True)
    if all(y > 0 for line in loss_axes.lines for y in line.get_ydata()):
        loss_axes.set_yscale("log")  # a loss falls by orders of magnitude
        loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss_axes.yaxis.set_major_formatter("{x:g}")  # 0.2, not 2 times 10 to the power of -1
        loss_axes.minorticks_off()
    if recall_axes.lines:
        recall_axes.set_ylim(bottom=0)
    no_loss = "no step was logged:\nlower MONITOR.PRINT_STEP"
    _finish(loss_axes, "training loss, first logged = 1", unit, no_loss)
    _finish(recall_axes, label, unit, "no validation was logged")
    return _picture(figure)


@rc_context(LETTERS)
def draw_reranking(rerank: dict, first: dict[str, float], colour: str) -> Image.Image:
    """Return curves of recall over the length of the short lists and over the number of pairs scored.

    `rerank` is the field of that name in `result.json`. `first` holds the metrics of the dual encoder alone,
    shown as dotted lines.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    k_axes, cost_axes = figure.subplots(1, 2)
    lengths = [point["k"] for point in rerank["curve"]]
    percent = [100 * point["pairs_scored"] / rerank["all_pairs"] for point in rerank["curve"]]
    shown = [tick for tick in PERCENT_TICKS if percent[0] <= tick <= percent[-1]]
    for axes, x, ticks, metrics in (
        (k_axes, lengths, lengths, {"i2t_r1": "image to text", "t2i_r1": "text to image"}),
        (cost_axes, percent, shown, {"mean_recall": "mean recall"}),
    ):
        for (metric, name), line in zip(metrics.items(), ("solid", "dashed"), strict=False):
            found = [point["metrics"][metric] for point in rerank["curve"]]
            axes.plot(x, found, label=name, color=colour, linestyle=line, marker="o", markersize=4)
            axes.axhline(first[metric], color=colour, linestyle="dotted", alpha=0.7)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    k_axes.set(title="R@1, percent", xlabel="length of the short lists")
    cost_axes.set(title="mean of the six recalls, percent", xlabel="percent of all pairs scored")
    return _picture(figure)


def points(clock: Sequence[float], log: Sequence[dict], event: str, key: str) -> list[tuple[float, float]]:
    """Return time and value of the records of an event that have the number `key`."""
    return [
        (time, float(record[key]))
        for time, record in zip(clock, log, strict=True)
        if record["event"] == event and isinstance(record.get(key), int | float)
    ]


def _plot(axes: Axes, points: list[tuple[float, float]], name: str, colour: str, dots: bool) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, color=colour, marker="o" if dots else None, markersize=4)


def _picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return Image.open(buffer)


def _finish(axes: Axes, title: str, unit: str, if_empty: str) -> None:
    axes.set(title=title, xlabel=f"{unit} of training")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, if_empty, transform=axes.transAxes, ha="center", va="center", color="#68707c")
