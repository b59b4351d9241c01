"""The report of one or several runs: curves, recalls, best hits and worst misses, with the pictures."""

import base64
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from engine.evaluator import Result
from serving.pages import write_page
from serving.pictures import PictureFolder
from serving.searcher import Hit, Searcher

SHOWN_HITS = 5
COLUMNS = (
    "i2t_r1",
    "i2t_r5",
    "i2t_r10",
    "i2t_medr",
    "t2i_r1",
    "t2i_r5",
    "t2i_r10",
    "t2i_medr",
    "rsum",
    "mean_recall",
)


@dataclass
class RunReport:
    """One run of the report: its name, what was measured on the test split, and its log records."""

    name: str
    result: Result
    log: list[dict]
    seconds: float
    swapped_accuracy: float | None = None


@dataclass
class Example:
    """One caption as a query: the rank (from 1) of its picture, that picture, and the first hits."""

    caption: str
    rank: int
    truth: Hit
    hits: list[Hit]


def write_report(
    path: Path, title: str, runs: list[RunReport], searcher: Searcher, pictures: PictureFolder
) -> Path:
    """Write the page; the pictures and examples are the first run's, whose model `searcher` holds."""
    ranks = runs[0].result.t2i_ranks
    values = {
        "title": title,
        "runs": runs,
        "columns": COLUMNS,
        "protocol": runs[0].result.protocol,
        "curves": curves_uri(runs),
        "best": [
            example(searcher, row, ranks) for row in best_captions(ranks, searcher.dataset.caption_image)
        ],
        "worst": [
            example(searcher, row, ranks) for row in worst_captions(ranks, searcher.dataset.caption_image)
        ],
        "image_examples": image_examples(searcher, runs[0].result.i2t_ranks),
        "pictures": pictures,
    }
    return write_page(path, "report.html", values)


def training_seconds(log: list[dict]) -> float:
    """Return how long a run was at work from its first log record on; a stop until its resume is left out."""
    return sum(
        after["time"] - before["time"] for before, after in pairwise(log) if before["event"] != "stopped"
    )


def best_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 5) -> list[int]:
    """Return captions whose picture came first, of different images, spread over the split."""
    rows = first_of_each_image(np.flatnonzero(ranks == ranks.min()), caption_image)
    spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return rows[spread].tolist()


def worst_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 4) -> list[int]:
    """Return the captions whose picture came last, of different images."""
    order = np.argsort(-ranks, kind="stable")
    return first_of_each_image(order, caption_image)[:count].tolist()


def first_of_each_image(caption_rows: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """Return the rows whose image occurs there for the first time, in order."""
    _, first = np.unique(caption_image[caption_rows], return_index=True)
    return caption_rows[np.sort(first)]


def example(searcher: Searcher, caption_row: int, ranks: np.ndarray) -> Example:
    """Search with one caption of the split and mark the picture that it belongs to."""
    dataset = searcher.dataset
    caption, truth = dataset.captions[caption_row], dataset.image_ids[dataset.caption_image[caption_row]]
    hits = [
        Hit(hit.name, hit.score, right=hit.name == truth)
        for hit in searcher.images_for_text(caption, SHOWN_HITS)
    ]
    return Example(caption, int(ranks[caption_row]) + 1, Hit(truth, None, right=True), hits)


def image_examples(searcher: Searcher, ranks: np.ndarray, count: int = 3) -> list[tuple[str, int, list[Hit]]]:
    """Return pictures spread over the split, the rank of their best caption, and their first captions."""
    dataset = searcher.dataset
    examples = []
    for row in np.linspace(0, dataset.num_images - 1, min(count, dataset.num_images)).round().astype(int):
        own = {dataset.captions[caption] for caption in np.flatnonzero(dataset.caption_image == row)}
        found = searcher.captions_for_image(searcher.images[row : row + 1], SHOWN_HITS)
        hits = [Hit(hit.name, hit.score, right=hit.name in own) for hit in found]
        examples.append((dataset.image_ids[row], int(ranks[row]) + 1, hits))
    return examples


def curves_uri(runs: list[RunReport]) -> str:
    """Return the training curves of all runs as a picture in a `data:` address."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (loss_axes, recall_axes) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for run in runs:
        steps = [record for record in run.log if record["event"] == "train"]
        validations = [record for record in run.log if record["event"] == "validation"]
        losses = [record["loss"] for record in steps]
        if losses:
            relative = np.asarray(losses) / max(abs(losses[0]), 1e-12)
            loss_axes.plot([record["epoch"] for record in steps], relative, label=run.name)
        total = max((record["step"] for record in run.log if "step" in record), default=1)
        last_epoch = steps[-1]["epoch"] / steps[-1]["step"] * total if steps else total
        epochs = [record["step"] / total * last_epoch for record in validations]
        recall_axes.plot(
            epochs, [record["mean_recall"] for record in validations], marker="o", ms=3, label=run.name
        )
    loss_axes.set(title="training loss, first logged = 1", xlabel="epoch")
    recall_axes.set(title="mean recall on dev, percent", xlabel="epoch")
    for axes in (loss_axes, recall_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():
            axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
