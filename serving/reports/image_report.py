"""The report of image encoders: recalls, training curves, and examples of queries with their hits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from config.errors import UserError
from datasets.image_dataset import ImageDataset
from datasets.pictures.files import PictureFiles
from datasets.pictures.picture import Picture, UnreadableError
from engine.certificates.sides import Certified
from engine.evaluation.image import ImageResult, nearest_pictures
from engine.tasks.task import ReportedRun
from serving.reports.curves import draw_curves, working_seconds
from serving.reports.pages import write_page
from serving.reports.pictures import BACKGROUND, THUMBNAIL, PictureFolder, image_uri
from serving.reports.report import COLOURS, mark_best
from serving.reports.verdict import Judged, chance_row, verdict
from serving.search.searcher import Hit

SHOWN_HITS, SHOWN_QUERIES = 5, 5
FOUND = {"r1": "pictures find one of their class first"}
IMAGE_COLUMNS = ("r1", "r10", "r100", "r1000", "map_at_r", "r_precision")


@dataclass(frozen=True)
class ImageRun:
    """One run of the report: its name, its number of parameters, its result and its log records.

    `dataset` holds the queries. `gallery` is the same data set if the pictures were searched in each other.
    `certified` are intervals and chance levels by metric, empty if none were computed, and `settings` say how
    the run was made.
    """

    name: str
    parameters: int
    result: ImageResult
    dataset: ImageDataset
    gallery: ImageDataset
    log: list[dict]
    certified: dict[str, Certified] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, reported: ReportedRun) -> "ImageRun":
        """Return the run that `engine.tasks.image.reports` measured, under the `name` that the page shows."""
        parameters = sum(parameter.size for parameter in reported.model.parameters())
        known = reported.certified, reported.settings
        return cls(
            name, parameters, reported.result, reported.dataset, reported.gallery, reported.log, *known
        )

    @property
    def judged(self) -> Judged:
        """Return the run as a verdict sees it."""
        return Judged(self.name, self.result.metrics, self.certified)

    @property
    def seconds(self) -> float:
        """Return the seconds that training worked, from the first log record on."""
        return working_seconds(self.log)[-1] if self.log else 0.0


@dataclass(frozen=True)
class FoundPictures:
    """A picture as a query, with the label of its class, and the first `hits`.

    `own` is the best hit of the query's class, and `rank` (from 1) its rank.
    """

    query: Hit
    label: str
    rank: int
    own: Hit
    hits: list[Hit]


class SplitPictures(PictureFolder):
    """The pictures of a split, from a folder or a zip file."""

    def __init__(self, files: PictureFiles) -> None:
        super().__init__(None)
        self._files = files

    def thumbnail(self, image_id: str, side: int = THUMBNAIL) -> Image.Image:
        """Return a square thumbnail, or a card with the name if the picture cannot be read."""
        try:
            picture = Picture(self._files.read(image_id))
            upright = picture.decode(max(1.0, min(picture.size) / side))
        except UnreadableError:
            return super().thumbnail(image_id, side)
        return ImageOps.pad(upright, (side, side), color=BACKGROUND)


def write_image_report(path: Path, title: str, runs: Sequence[ImageRun]) -> Path:
    """Write the page and return its path; the examples of queries are the first run's.

    Raises UserError unless all runs were measured on the same pictures, in the same gallery and with the same
    tie rule, or if the page cannot be written.
    """
    for run in runs[1:]:
        _refuse_others(runs[0], run)
    colours = {run.name: colour for run, colour in zip(runs, cycle(COLOURS), strict=False)}
    logs = [(run.name, colours[run.name], run.log) for run in runs]
    first = runs[0]
    best, worst = chosen_queries(first.result)
    values = {
        "title": title,
        "runs": runs,
        "protocol": first.result.protocol,
        "colours": colours,
        "column_names": IMAGE_COLUMNS,
        "chance": chance_row([run.judged for run in runs], IMAGE_COLUMNS),
        "verdict": verdict([run.judged for run in runs], FOUND, "map_at_r", "MAP@R"),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "metrics": mark_best([run.result.metrics for run in runs], IMAGE_COLUMNS),
        "curves": image_uri(draw_curves(logs, "r1", "R@1 on dev, percent"), "png"),
        "best": [found_pictures(first, place) for place in best],
        "worst": [found_pictures(first, place) for place in worst],
        "pictures": SplitPictures(first.dataset.loader.files),
        "gallery": SplitPictures(first.gallery.loader.files),
    }
    return write_page(path, "image_report.html", values)


def chosen_queries(result: ImageResult) -> tuple[list[int], list[int]]:
    """Return the best and the worst queries as indices into `result.ranks`, each query of another class.

    The best have the lowest rank and are spread over the split; the worst have the highest ranks, and none
    has rank 0.
    """
    ranks = result.ranks.ranks
    classes = result.queries.classes[result.ranks.queries]
    right = np.flatnonzero(ranks == ranks.min())
    spread = right[np.linspace(0, len(right) - 1, min(len(right), 20 * SHOWN_QUERIES)).round().astype(int)]
    order = np.argsort(-ranks, kind="stable")
    wrong = order[ranks[order] > 0]
    return _of_different_classes(spread, classes), _of_different_classes(wrong, classes)


def _of_different_classes(places: np.ndarray, classes: np.ndarray) -> list[int]:
    _, first = np.unique(classes[places], return_index=True)
    return places[np.sort(first)][:SHOWN_QUERIES].tolist()


def found_pictures(run: ImageRun, place: int) -> FoundPictures:
    """Return the answer to the query at index `place` of the result's ranks."""
    result, row = run.result, int(run.result.ranks.queries[place])
    label = str(result.queries.classes[row])
    classes = np.array(run.gallery.class_names)[run.gallery.labels]

    def hit(at: int, score: float) -> Hit:
        return Hit(run.gallery.image_ids[at], score, right=bool(classes[at] == label))

    nearest = nearest_pictures(result, row, len(result.gallery.places))
    own = next(hit(at, score) for at, score in nearest if classes[at] == label)
    query = Hit(run.dataset.image_ids[result.queries.places[row]], None)
    return FoundPictures(
        query, label, int(result.ranks.ranks[place]) + 1, own, [hit(*each) for each in nearest[:SHOWN_HITS]]
    )


def _refuse_others(first: ImageRun, other: ImageRun) -> None:
    ours, theirs = first.result.protocol, other.result.protocol
    alike = {
        "pictures": first.dataset.image_ids == other.dataset.image_ids,
        "EVAL.GALLERY": ours["gallery"] == theirs["gallery"],
        "EVAL.TIE_RULE": ours["tie_rule"] == theirs["tie_rule"],
    }
    different = [what for what, same in alike.items() if not same]
    if different:
        raise UserError(
            f"{other.name} was measured with other {different[0]} than {first.name}, expected the same in "
            "all runs of a report; write a report on each"
        )
