"""Which sentences and pictures a report shows, and what the models answer to them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.retrieval_dataset import RetrievalDataset
from serving.search.searcher import Hit, Searcher

SHOWN_HITS = 5
RELATING = re.compile(
    r"\b(left|right|above|below|under|beneath|over|behind|beside|next to|in front of)\b", re.IGNORECASE
)


@dataclass
class Example:
    """One caption as a query: the rank (from 1) of its picture, that picture, and the first hits."""

    caption: str
    rank: int
    truth: Hit
    hits: list[Hit]


@dataclass
class ImageExample:
    """One picture as a query: the rank (from 1) of its best caption, and the first captions and pictures."""

    image_id: str
    rank: int
    captions: list[Hit]
    pictures: list[Hit]


@dataclass
class Comparison:
    """The answers of several models to one caption, and how many captions fared as it did."""

    found_by: list[str]
    alike: int
    answers: dict[str, Example]


def best_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 5) -> list[int]:
    """Return captions whose picture came first, of different images, spread over the split."""
    rows = first_of_each_image(np.flatnonzero(ranks == ranks.min()), caption_image)
    return _spread(rows, count)


def worst_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 4) -> list[int]:
    """Return the captions whose picture came last, though never those where it came first."""
    order = np.argsort(-ranks, kind="stable")
    return first_of_each_image(order[ranks[order] > 0], caption_image)[:count].tolist()


def first_of_each_image(caption_rows: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """Return the rows whose image occurs there for the first time, in order."""
    _, first = np.unique(caption_image[caption_rows], return_index=True)
    return caption_rows[np.sort(first)]


def relating_captions(captions: Sequence[str]) -> np.ndarray:
    """Return the rows of the captions that say where something is in relation to another thing."""
    return np.array([row for row, caption in enumerate(captions) if RELATING.search(caption)], dtype=np.int64)


def example(searcher: Searcher, caption_row: int, ranks: np.ndarray) -> Example:
    """Search with one caption of the split and mark the picture that it belongs to."""
    dataset = searcher.dataset
    caption, truth = dataset.captions[caption_row], dataset.image_ids[dataset.caption_image[caption_row]]
    hits = [
        Hit(hit.name, hit.score, right=hit.name == truth)
        for hit in searcher.images_for_text(caption, SHOWN_HITS)
    ]
    return Example(caption, int(ranks[caption_row]) + 1, Hit(truth, None, right=True), hits)


def comparisons(
    searchers: dict[str, Searcher], ranks: dict[str, np.ndarray], candidates: np.ndarray
) -> list[Comparison]:
    """Return one caption for which all models put the right picture first, one for each alone, and for none.

    `ranks` holds each model's ranks [captions]; `candidates` are the captions to choose from. The one in the
    middle of those that fare alike is taken, so that nothing but the ranks decides which are shown.
    """
    names = list(searchers)
    first = np.stack([ranks[name][candidates] == 0 for name in names])  # [models, candidates]
    outcomes = [np.ones(len(names), bool), *np.eye(len(names), dtype=bool), np.zeros(len(names), bool)]
    chosen = []
    for outcome in outcomes:
        alike = candidates[(first == outcome[:, None]).all(axis=0)]
        if len(alike):
            row = int(alike[len(alike) // 2])
            answers = {name: example(searchers[name], row, ranks[name]) for name in names}
            found_by = [name for name, found in zip(names, outcome, strict=True) if found]
            chosen.append(Comparison(found_by, len(alike), answers))
    return chosen


def image_examples(searcher: Searcher, ranks: np.ndarray, count: int = 3) -> list[ImageExample]:
    """Return what pictures spread over the split find; `ranks` [images]: of their captions, 0-based."""
    dataset: RetrievalDataset = searcher.dataset
    examples = []
    for row in _spread(np.arange(dataset.num_images), count):
        image_id, embedding = dataset.image_ids[row], searcher.images[row : row + 1]
        captions = searcher.captions_for_image(embedding, SHOWN_HITS, image_id=image_id)
        alike = searcher.images_for_image(embedding, SHOWN_HITS, leave_out=image_id)
        examples.append(ImageExample(image_id, int(ranks[row]) + 1, captions, alike))
    return examples


def _spread(rows: np.ndarray, count: int) -> list[int]:
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return rows[places].tolist()
