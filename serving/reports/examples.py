"""Choose the sentences and pictures that a report shows as queries, and search with them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.retrieval_dataset import RetrievalDataset
from serving.search.searcher import Hit
from serving.splits.split_searcher import SplitSearcher

SHOWN_HITS = 5
RELATING = re.compile(
    r"\b(left|right|above|below|under|beneath|over|behind|beside|next to|in front of)\b", re.IGNORECASE
)


@dataclass
class Example:
    """A caption as a query: the rank (from 1) of its own picture `truth`, and the first hits."""

    caption: str
    rank: int
    truth: Hit
    hits: list[Hit]


@dataclass
class ImageExample:
    """A picture as a query: the rank (from 1) of its best own caption, and the first hits of both kinds."""

    image_id: str
    rank: int
    captions: list[Hit]
    pictures: list[Hit]


@dataclass
class Comparison:
    """The answers of several models to one caption.

    `found_by` names the models that put the caption's own picture first, and `alike` is the number of
    captions for which exactly these models do. `answers` holds each model's answer.
    """

    found_by: list[str]
    alike: int
    answers: dict[str, Example]


def best_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 5) -> list[int]:
    """Return the rows of captions of the lowest rank, of different images and spread over the split.

    `ranks` [captions] are 0-based; `caption_image` [captions] is the row of each caption's image.
    """
    rows = first_of_each_image(np.flatnonzero(ranks == ranks.min()), caption_image)
    return _spread(rows, count)


def worst_captions(ranks: np.ndarray, caption_image: np.ndarray, count: int = 4) -> list[int]:
    """Return the rows of captions of the highest ranks, of different images, and none of rank 0."""
    order = np.argsort(-ranks, kind="stable")
    return first_of_each_image(order[ranks[order] > 0], caption_image)[:count].tolist()


def first_of_each_image(caption_rows: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """Return those of `caption_rows` that are the first of their image, in their order."""
    _, first = np.unique(caption_image[caption_rows], return_index=True)
    return caption_rows[np.sort(first)]


def relating_captions(captions: Sequence[str]) -> np.ndarray:
    """Return the rows of the captions that state where one thing is relative to another."""
    return np.array([row for row, caption in enumerate(captions) if RELATING.search(caption)], dtype=np.int64)


def example(searcher: SplitSearcher, caption_row: int, ranks: np.ndarray) -> Example:
    """Return the answer to a caption of the split, with its right pictures marked."""
    dataset = searcher.dataset
    caption, truth = dataset.captions[caption_row], dataset.image_ids[dataset.caption_image[caption_row]]
    turned = dataset.relevance.turned
    right = turned.captions[turned.starts[caption_row] : turned.starts[caption_row + 1]]
    names = {dataset.image_ids[image] for image in right}
    hits = [
        Hit(hit.name, hit.score, right=hit.name in names)
        for hit in searcher.images_for_text(caption, SHOWN_HITS)
    ]
    return Example(caption, int(ranks[caption_row]) + 1, Hit(truth, None, right=True), hits)


def comparisons(
    searchers: dict[str, SplitSearcher], ranks: dict[str, np.ndarray], candidates: np.ndarray
) -> list[Comparison]:
    """Return one caption for each outcome: all models find it first, one model alone does, none does.

    A model finds a caption first if it puts the caption's own picture first. `ranks` holds each model's
    0-based ranks [captions]; `candidates` are the rows of the captions to choose from. Of the captions with
    the same outcome the middle one is taken, so that the ranks alone decide which captions are shown. An
    outcome without captions is left out.
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


def image_examples(searcher: SplitSearcher, ranks: np.ndarray, count: int = 3) -> list[ImageExample]:
    """Return the answers to `count` pictures spread over the split.

    `ranks` [images] are the 0-based ranks of the images' best own captions.
    """
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
