"""The page of one image's attention, and the same as a section of a report."""

import io
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
from serving.reports.pages import write_page, write_whole
from serving.reports.pictures import PictureFolder, image_uri
from serving.reports.region_view import region_view
from serving.search.searcher import Searcher

PICTURE = 220  # pixels of the longer side of the picture without marks


@dataclass(frozen=True)
class Figure:
    """A drawing: its file's name, what it shows, and how to read it."""

    name: str
    heading: str
    note: str
    picture: Image.Image

    @property
    def uri(self) -> str:
        """Return the drawing as a `data:` address."""
        return image_uri(self.picture, "png")


@dataclass(frozen=True)
class AttentionSection:
    """What a page shows of one image: what was seen, notes on the boxes, the picture and the drawings."""

    attention: Explanation
    notes: Sequence[str]
    picture: Image.Image
    figures: Sequence[Figure]

    @property
    def uri(self) -> str:
        """Return the picture as a `data:` address."""
        return image_uri(self.picture)


def attention_section(
    attention: Explanation, view: BoxedPicture, notes: Sequence[str], top: int, taker: int | None = None
) -> AttentionSection:
    """Draw what was seen: `top` regions are framed, lines start at region `taker` (default: the top one)."""
    relevance, words = attention.relevance, attention.sentence.words
    figures = []
    if attention.listening is not None:
        figures += _graph_figures(attention.listening, view, top, taker)
    figures += [
        Figure(
            "sentence",
            "What the sentence rests on",
            "What the score loses without a region: red speaks for the sentence, blue against it.",
            draw_sentence(view, relevance.region, top),
        ),
        Figure(
            "words",
            "Which region answers which word",
            "The part of that loss that needs the word too; framed is the region that answers it best.",
            draw_words(view, words, relevance.pair),
        ),
        Figure(
            "matrix",
            "Regions and words",
            "Beside a row stands what the score loses without the region, below a column without the word; a "
            "cell shows the part that needs both.",
            draw_matrix(view, words, relevance.pair, relevance.region, relevance.word),
        ),
    ]
    return AttentionSection(attention, notes, view.scaled(PICTURE).picture, figures)


def _graph_figures(listening: np.ndarray, view: BoxedPicture, top: int, taker: int | None) -> list[Figure]:
    received = listening.sum(axis=0)  # [R]
    taker = int(received.argmax()) if taker is None else taker
    taken = listening[taker] / max(listening[taker].sum(), np.finfo(np.float64).tiny)
    return [
        Figure(
            "graph",
            "What the graph listened to",
            "The regions that the others take most from, with their share of all that is taken.",
            draw_listened(_with_shares(view, received), received, top),
        ),
        Figure(
            "links",
            f"What region {view.labels[taker]} takes from others",
            "Lines lead to the regions that it takes most from, with their share of what it takes.",
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
    searcher: Searcher, caption_rows: Sequence[int], pictures: PictureFolder, top: int = 5
) -> list[AttentionSection]:
    """Look at captions of the split with their images, of which a report shows all but the matrix.

    Images without a picture, or without boxes or a grid to draw, are left out.
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
        section = attention_section(seen, view, notes, top)
        sections.append(
            replace(section, figures=[figure for figure in section.figures if figure.name != "matrix"])
        )
    return sections


def write_attention(folder: Path, section: AttentionSection, note: str) -> list[Path]:
    """Write each drawing as a PNG file, and a page with all of them; return their paths, the page last.

    `note` says which model and split it is. Raises UserError where the disk refuses.
    """
    paths = []
    for figure in section.figures:
        content = io.BytesIO()
        figure.picture.save(content, "PNG", optimize=True)
        paths.append(write_whole(folder / f"{figure.name}.png", content.getvalue()))
    values = {"title": section.attention.image_id, "note": note, "section": section}
    return [*paths, write_page(folder / "attention.html", "attention.html", values)]
