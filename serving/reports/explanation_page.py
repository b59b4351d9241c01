"""The page that explains one image's score with a sentence, and the same as a section of a report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from config.errors import UserError
from serving.reports.drawing import BoxedPicture
from serving.reports.explanation import Explanation, explain
from serving.reports.explanation_pictures import (
    draw_links,
    draw_listened,
    draw_matrix,
    draw_sentence,
    draw_words,
)
from serving.reports.pages import write_page, write_picture
from serving.reports.pictures import PictureFolder, image_uri
from serving.reports.region_view import region_view
from serving.splits.split_searcher import SplitSearcher

PICTURE = 220  # longer side of the picture without marks, in pixels


@dataclass(frozen=True)
class Figure:
    """A drawing: the name of its file, a heading, and a note on how to read it."""

    name: str
    heading: str
    note: str
    picture: Image.Image

    @property
    def uri(self) -> str:
        """Return the drawing as a `data:` address."""
        return image_uri(self.picture, "png")


@dataclass(frozen=True)
class ExplanationSection:
    """What a page shows of one image: the explanation, notes on the boxes, the picture and the drawings."""

    explanation: Explanation
    notes: Sequence[str]
    picture: Image.Image
    figures: Sequence[Figure]

    @property
    def uri(self) -> str:
        """Return the picture as a `data:` address."""
        return image_uri(self.picture)


def explanation_section(
    explanation: Explanation, view: BoxedPicture, notes: Sequence[str], top: int, taker: int | None = None
) -> ExplanationSection:
    """Return the drawings of an explanation.

    `top` regions are framed. Lines start at region `taker`, by default the one that is listened to most.
    """
    relevance, words = explanation.relevance, explanation.sentence.words
    figures = []
    if explanation.listening is not None:
        figures += _graph_figures(explanation.listening, view, top, taker)
    figures += [
        Figure(
            "sentence",
            "What the sentence rests on",
            "The loss of score without a region: red regions speak for the sentence, blue ones against it.",
            draw_sentence(view, relevance.region, top),
        ),
        Figure(
            "words",
            "Which region answers which word",
            "The part of that loss that needs the word too. A frame shows the region that answers it best.",
            draw_words(view, words, relevance.pair),
        ),
        Figure(
            "matrix",
            "Regions and words",
            "The number beside a row is the loss of score without that region, the number below a column the "
            "loss without that word. A cell shows the part that needs both.",
            draw_matrix(view, words, relevance.pair, relevance.region, relevance.word),
        ),
    ]
    return ExplanationSection(explanation, notes, view.scaled(PICTURE).picture, figures)


def _graph_figures(listening: np.ndarray, view: BoxedPicture, top: int, taker: int | None) -> list[Figure]:
    received = listening.sum(axis=0)  # [R]
    taker = int(received.argmax()) if taker is None else taker
    taken = listening[taker] / max(listening[taker].sum(), np.finfo(np.float64).tiny)
    return [
        Figure(
            "graph",
            "What the graph listened to",
            "The regions that the others listen to most, with their share of all listening.",
            draw_listened(_with_shares(view, received), received, top),
        ),
        Figure(
            "links",
            f"What region {view.labels[taker]} takes from others",
            "Lines lead to the regions that this region listens to most, with their share of its listening.",
            draw_links(_with_shares(view, taken, but=taker), taker, taken, top),
        ),
    ]


def _with_shares(view: BoxedPicture, shares: np.ndarray, but: int | None = None) -> BoxedPicture:
    labels = [
        label if region == but else f"{label}  {share:.0%}"
        for region, (label, share) in enumerate(zip(view.labels, shares, strict=True))
    ]
    return BoxedPicture(view.picture, view.boxes, labels)


def report_sections(
    searcher: SplitSearcher, caption_rows: Sequence[int], pictures: PictureFolder, top: int = 5
) -> list[ExplanationSection]:
    """Return the explanations of captions of the split with their own images, without the matrix.

    Images without a picture, and those without boxes whose regions are no grid, are left out.
    """
    dataset, sections = searcher.dataset, []
    for caption in caption_rows:
        row = int(dataset.caption_image[caption])
        image_id, regions = dataset.image_ids[row], dataset.regions(row)
        if pictures.find(image_id) is None:
            continue
        try:
            view, notes = region_view(image_id, regions, pictures)
        except UserError:
            continue
        seen = explain(searcher, row, regions, dataset.captions[caption])
        section = explanation_section(seen, view, notes, top)
        sections.append(
            replace(section, figures=[figure for figure in section.figures if figure.name != "matrix"])
        )
    return sections


def write_explanation(folder: Path, section: ExplanationSection, note: str) -> list[Path]:
    """Write each drawing as a PNG file, and a page with all of them; return the paths, that of the page last.

    `note` names the model and the split. Raises UserError if a file cannot be written.
    """
    paths = []
    for figure in section.figures:
        paths.append(write_picture(folder / f"{figure.name}.png", figure.picture, optimize=True))
    values = {"title": section.explanation.image_id, "note": note, "section": section}
    return [*paths, write_page(folder / "attention.html", "explanation.html", values)]
