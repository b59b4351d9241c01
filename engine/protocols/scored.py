"""Scores that anybody made, with their ids: a matrix, embeddings, or ranked lists, in an .npz file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from config.errors import UserError, cut
from datasets.array_files import read_npz
from datasets.captions.load import CaptionSplit
from datasets.captions.relevance_files import read_relevance
from datasets.relevance import Relevance
from engine.ranking.counter import RankCounter, TiedRanks
from engine.ranking.ranks import Question, rank_counters, row_counter
from engine.ranking.rounded import PairScores
from engine.ranking.short_lists import ShortLists
from engine.ranking.similarity import inner_products
from engine.ranking.tiles import content_labels

FORMS = (
    "expected image_ids [I], caption_image_ids [T], and scores [I,T], or image [I,D] and text [T,D], or "
    "ranked lists i2t [I,K] and t2i [T,K] (docs/protocols.md)"
)


@dataclass(frozen=True)
class Scored:
    """The scores of I images and T captions in both directions, and their names.

    `i2t` [I,T] and `t2i` [T,I] are the scores, None where they are inner products of the embeddings `image`
    [I,D] and `text` [T,D]. `caption_image` [T] is the place of each caption's image. `caption_ids` are the
    captions' own names, if the file has them, and `relevance` says which captions are right for which images.
    `cut` tells that the file holds ranked lists that are shorter than the gallery; the items that are not on
    a list have the score -infinity.
    """

    path: Path
    image_ids: list[str]
    caption_image: np.ndarray
    relevance: Relevance
    i2t: np.ndarray | None
    t2i: np.ndarray | None
    image: np.ndarray | None = None
    text: np.ndarray | None = None
    caption_ids: list[str] | None = None
    cut: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of images and captions."""
        return len(self.image_ids), len(self.caption_image)

    def counters(self, questions: Sequence[Question], tie_rule: str) -> list[tuple[RankCounter, RankCounter]]:
        """Return the counters of both directions of each question."""
        if self.i2t is None:
            return rank_counters(self.image, self.text, questions, tie_rule=tie_rule)
        return [
            (row_counter(self.i2t, each, tie_rule), row_counter(self.t2i, each.turned(), tie_rule))
            for each in questions
        ]

    def rows(self, direction: str, queries: np.ndarray) -> np.ndarray:
        """Return the scores [q,G] of some queries of `direction`, i2t or t2i, with the whole gallery."""
        if self.i2t is not None:
            return (self.i2t if direction == "i2t" else self.t2i)[queries]
        sides = (self.image, self._texts) if direction == "i2t" else (self.text, self._images)
        distinct, place = sides[1]
        return inner_products(sides[0][queries], distinct)[:, place]

    def leaders(
        self, direction: str, queries: np.ndarray, relevance: Relevance, count: int, tie_rule: str
    ) -> tuple[TiedRanks, np.ndarray, Relevance]:
        """Return the ranks [q] of some queries of embeddings, and of their rows [q,G] what leads or is right.

        `relevance` [q,G] says what is right for them. The scores [q,W] are those of their right items and of
        at least the `count` highest others, -infinity elsewhere; the relevance that is returned, [q,W], says
        where the right ones are.
        """
        sides = self.image, self.text
        asking, items = sides if direction == "i2t" else sides[::-1]
        asking = asking[queries]
        zeros, everything = (np.zeros(len(side), np.int64) for side in (asking, items)), np.arange(len(items))
        longest = int(relevance.of_images.max())
        lists = ShortLists(count + longest, *zeros, everything, of_captions=False)
        question = Question(relevance)
        [(counter, _)] = rank_counters(asking, items, question, tie_rule=tie_rule, lists_out=[lists])
        keys = lists.captions_of_image + np.arange(len(asking))[:, None] * len(items)
        right = np.isin(keys, relevance.images * len(items) + relevance.captions)
        others = np.where(right, -np.inf, lists.image_scores)
        place = np.arange(len(relevance.images)) - relevance.starts[relevance.images]
        scores = np.full((len(asking), others.shape[1] + longest), -np.inf, np.float32)
        scores[:, : others.shape[1]] = others
        own = Relevance.of(scores.shape, relevance.images, others.shape[1] + place)
        pairs = PairScores(asking, items, everything)
        scores[own.images, own.captions] = pairs(relevance.images, relevance.captions)
        return counter.tied(), scores, own

    @cached_property
    def _texts(self) -> tuple[np.ndarray, np.ndarray]:
        return _distinct(self.text)

    @cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        return _distinct(self.image)

    @cached_property
    def image_of_number(self) -> dict[int, int]:
        """Return the place of each image by the number that ends its name, such as COCO's 391895.

        Raises UserError for a name that ends with no number, and for a number that stands twice.
        """
        found: dict[int, int] = {}
        for row, name in enumerate(self.image_ids):
            number = re.search(r"(\d+)(?:\.[A-Za-z]+)?$", name)
            if not number or found.setdefault(int(number.group(1)), row) != row:
                raise UserError(
                    f"{self.path}: image_ids: expected names that end with COCO's number, each once, such as "
                    f"COCO_val2014_000000391895.jpg or 391895, got {name!r}"
                )
        return found


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct `rows` and the place of each, so that equal items have equal scores."""
    labels = content_labels(rows)
    return rows[np.unique(labels, return_index=True)[1]], labels


def read_scores(path: Path, allow_cut: bool = False) -> Scored:
    """Return what the file at `path` holds.

    Raises UserError for a file of another form, ids that do not fit, scores that are not finite, and, without
    `allow_cut`, ranked lists that are shorter than the gallery.
    """
    arrays = read_npz(path, ["image_ids", "caption_image_ids"], FORMS)
    names = [str(name) for name in arrays["image_ids"].reshape(-1)]
    owners = [str(name) for name in arrays["caption_image_ids"].reshape(-1)]
    if not names or not owners:
        raise UserError(f"{path}: {len(names)} image_ids and {len(owners)} caption_image_ids: {FORMS}")
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        twice = next(name for row, name in enumerate(names) if row_of[name] != row)
        raise UserError(f"{path}: image_ids: {cut(twice)!r} stands twice, expected a row for each image")
    unknown = [name for name in owners if name not in row_of]
    if unknown:
        raise UserError(
            f"{path}: caption_image_ids: {len(unknown)} are not in image_ids, such as {cut(unknown[0])!r}: "
            "take the scores and the ids of one split"
        )
    shape = len(names), len(owners)
    caption_image = np.array([row_of[name] for name in owners], np.int64)
    ids = arrays.get("caption_ids")
    if ids is not None and ids.shape != shape[1:]:
        raise UserError(f"{path}: {ids.size} caption_ids for {shape[1]} captions, expected one for each")
    relevance = _relevance(path, arrays, caption_image, shape)
    found = _matrices(path, arrays, shape, allow_cut)
    caption_ids = None if ids is None else [str(name) for name in ids]
    return Scored(path, names, caption_image, relevance, caption_ids=caption_ids, **found)


def _matrices(path: Path, arrays: dict[str, np.ndarray], shape: tuple[int, int], allow_cut: bool) -> dict:
    if "scores" in arrays:
        scores = arrays["scores"]
        if scores.shape != shape or scores.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: scores of {scores.dtype} {list(scores.shape)} for {shape[0]} images and {shape[1]} "
                f"captions: {FORMS}"
            )
        _check_finite(path, "scores", scores)
        return {"i2t": scores, "t2i": scores.T}
    if "image" in arrays and "text" in arrays:
        sides = {name: np.asarray(arrays[name], np.float32) for name in ("image", "text")}
        widths = [side.shape[1:] for side in sides.values()]
        if (
            [len(side) for side in sides.values()] != list(shape)
            or widths[0] != widths[1]
            or len(widths[0]) != 1
        ):
            found = ", ".join(f"{name} {list(side.shape)}" for name, side in sides.items())
            raise UserError(f"{path}: {found} for {shape[0]} images and {shape[1]} captions: {FORMS}")
        for name, side in sides.items():
            _check_finite(path, name, side)
        return {"i2t": None, "t2i": None, **sides}
    if "i2t" in arrays and "t2i" in arrays:
        found = {
            "i2t": _of_lists(path, "i2t", arrays["i2t"], *shape),
            "t2i": _of_lists(path, "t2i", arrays["t2i"], *shape[::-1]),
        }
        cut = [name for name, scores in found.items() if np.isneginf(scores).any()]
        if cut and not allow_cut:
            raise UserError(
                f"{path}: the lists of {cut[0]} hold {arrays[cut[0]].shape[1]} of {found[cut[0]].shape[1]} "
                "items, expected whole rankings: a cut list undercounts; --quirk cut_lists counts it all the "
                "same, as other code does"
            )
        return {**found, "cut": bool(cut)}
    raise UserError(f"{path}: no scores: {FORMS}")


def _check_finite(path: Path, name: str, values: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise UserError(f"{path}: {name}: row {broken[0] + 1} holds NaN or infinity, expected finite numbers")


def _of_lists(path: Path, name: str, lists: np.ndarray, queries: int, gallery: int) -> np.ndarray:
    """Return scores [queries,gallery] by which items rank as on their lists, the others with -infinity."""
    fits = lists.ndim == 2 and len(lists) == queries and lists.dtype.kind in "iu" and lists.size
    if not fits or lists.min() < 0 or lists.max() >= gallery:
        raise UserError(
            f"{path}: {name} of {lists.dtype} {list(lists.shape)}, expected places from 0 to {gallery - 1} "
            f"for each of {queries} queries, best first"
        )
    ordered = np.sort(lists, axis=1)
    twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(twice):
        raise UserError(f"{path}: {name}: row {twice[0] + 1} lists an item twice, expected each once")
    scores = np.full((queries, gallery), -np.inf, np.float32)
    np.put_along_axis(
        scores, lists.astype(np.int64), -np.arange(lists.shape[1], dtype=np.float32)[None], axis=1
    )
    return scores


def _relevance(
    path: Path, arrays: dict[str, np.ndarray], caption_image: np.ndarray, shape: tuple[int, int]
) -> Relevance:
    images, captions = arrays.get("right_images"), arrays.get("right_captions")
    if images is None or captions is None:
        return Relevance.of(shape, caption_image, np.arange(shape[1]))
    fits = all(each.ndim == 1 and each.dtype.kind in "iu" and each.size for each in (images, captions))
    fits = fits and len(images) == len(captions) and min(images.min(), captions.min()) >= 0
    if not fits or images.max() >= shape[0] or captions.max() >= shape[1]:
        raise UserError(f"{path}: right_images and right_captions: expected pairs of places in {list(shape)}")
    rule, grades = str(arrays.get("right_rule", "pairs of the file")), arrays.get("right_grades")
    if grades is not None and (grades.shape != images.shape or grades.dtype.kind not in "fiu"):
        raise UserError(f"{path}: right_grades: expected a number for each of {len(images)} right pairs")
    return Relevance.of(shape, images, captions, grades, rule)


def with_relevance(scored: Scored, path: Path) -> Scored:
    """Return `scored` with the right pairs of a file in the forms of DATASET.RELEVANCE."""
    split = CaptionSplit(
        str(scored.path),
        scored.image_ids,
        np.arange(scored.shape[0]),
        [""] * scored.shape[1],
        scored.caption_image,
        scored.caption_ids,
    )
    return replace(scored, relevance=read_relevance(path, split))
