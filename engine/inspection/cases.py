"""Queries worth a look: the worst misses of a result, and those on which two results disagree most."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import UserError
from engine.certificates.comparison import StoredResult, check_comparable, read_result
from engine.certificates.stored import digest_of
from engine.inspection.kept_lists import LISTS_FILE, KeptLists, read_lists

DIRECTIONS = ("t2i", "i2t")


@dataclass(frozen=True)
class Inspected:
    """A result with what each query found first; `name` is the run's, or the folder's."""

    name: str
    stored: StoredResult
    lists: KeptLists

    def ranks(self, direction: str) -> np.ndarray:
        """Return the 0-based rank [queries] of every query by the result's tie rule, NaN if it has none."""
        side = self.stored.ranks.sides[f"{direction}_"]
        found = np.full(self.lists.relevance.shape[0 if direction == "i2t" else 1], np.nan)
        found[side.query] = side.ranks(self.stored.ranks.tie_rule)
        return found


@dataclass(frozen=True)
class Item:
    """An item that a query found: its place in the split, its score, and whether it is right."""

    place: int
    score: float
    right: bool


@dataclass(frozen=True)
class Answer:
    """How a model answers a query: the rank from 1 of its best right item `right`, and the first items."""

    model: str
    rank: float
    right: Item
    first: list[Item]

    @property
    def beaten_by(self) -> Item | None:
        """Return the first wrong item, if it stands before the right one."""
        wrong = next((item for item in self.first if not item.right), None)
        return wrong if wrong and self.rank > 1 else None


@dataclass(frozen=True)
class Case:
    """A query, by `direction` a caption (t2i) or an image (i2t), and the answers of one or more models."""

    direction: str
    query: int
    answers: list[Answer]


def open_result(folder: Path) -> Inspected:
    """Return the result in `folder`; raise UserError for one without lists, or with those of another."""
    stored = read_result(folder)
    if "i2t_" not in stored.ranks.sides or "t2i_" not in stored.ranks.sides:
        raise UserError(
            f"{stored.folder}: expected ranks of images and captions both ways, as dual and cross encoders "
            f"have, got {', '.join(f'{name}ranks' for name in stored.ranks.sides) or 'none'}: name another "
            "result"
        )
    lists = read_lists(stored.folder / LISTS_FILE)
    own = {"images": lists.image_ids, "captions": lists.captions}
    for name, values in own.items():
        if stored.ranks.digests.get(name) not in (None, digest_of(values)):
            raise UserError(
                f"{stored.folder / LISTS_FILE}: other {name} than in ranks.npz beside it: evaluate again"
            )
    for direction, count in zip(("i2t_", "t2i_"), lists.relevance.shape, strict=True):
        if stored.ranks.sides[direction].query.max(initial=-1) >= count:
            raise UserError(
                f"{stored.folder / LISTS_FILE}: fewer queries than ranks.npz beside it: evaluate again"
            )
    name = stored.content["config"].get("OUTPUT", {}).get("SAVE_NAME") or stored.folder.name
    return Inspected(name, stored, lists)


def open_both(first: Path, second: Path) -> tuple[Inspected, Inspected]:
    """Return two results of the same queries, under different names; raise UserError for others."""
    results = open_result(first), open_result(second)
    check_comparable([each.stored for each in results])
    if results[0].name == results[1].name:
        return tuple(Inspected(str(each.stored.folder), each.stored, each.lists) for each in results)
    return results


def misses(result: Inspected, direction: str, count: int, shown: int = 5) -> list[Case]:
    """Return the `count` queries of the highest ranks, of different images; none of rank 1."""
    ranks = result.ranks(direction)
    order = np.argsort(-np.nan_to_num(ranks, nan=-1.0), kind="stable")
    order = order[np.nan_to_num(ranks[order], nan=0.0) > 0]
    chosen = _of_different_images(result.lists, direction, order, count)
    return [Case(direction, query, [answer(result, direction, query, shown)]) for query in chosen]


def disagreements(
    first: Inspected, second: Inspected, direction: str, count: int, shown: int = 3
) -> list[Case]:
    """Return the `count` queries on which `first` is furthest ahead of `second`, by difference of rank."""
    apart = second.ranks(direction) - first.ranks(direction)
    order = np.argsort(-np.nan_to_num(apart, nan=0.0), kind="stable")
    order = order[np.nan_to_num(apart[order], nan=0.0) > 0]
    chosen = _of_different_images(first.lists, direction, order, count)
    results = first, second
    return [
        Case(direction, query, [answer(each, direction, query, shown) for each in results])
        for query in chosen
    ]


def answer(result: Inspected, direction: str, query: int, shown: int) -> Answer:
    """Return the answer of a result to a query that has a rank."""
    lists = result.lists
    places, scores = (each[query] for each in lists.lists(direction))
    there = places >= 0
    flags = _are_right(lists, direction, query, places[there])
    triples = zip(places[there].tolist(), scores[there].tolist(), flags.tolist(), strict=True)
    right, right_scores = lists.right(direction, query)
    best = Item(int(right[0]), float(right_scores[0]), True)
    items = [Item(*each) for each in triples]
    wrong = next((item for item in items if not item.right), None)
    first = items[:shown]
    if wrong is not None and wrong not in first:
        first = [*first[: shown - 1], wrong]
    return Answer(result.name, float(result.ranks(direction)[query]) + 1, best, first)


def _are_right(lists: KeptLists, direction: str, query: int, items: np.ndarray) -> np.ndarray:
    """Return whether each of the listed `items` [n] is right; a caption also if one that says the same is."""
    right, _ = lists.right(direction, query)
    if direction == "t2i":
        return np.isin(items, right)
    return np.isin(lists.sentence[items], lists.sentence[right])


def _of_different_images(lists: KeptLists, direction: str, order: np.ndarray, count: int) -> list[int]:
    owner: Sequence[int] = order if direction == "i2t" else lists.caption_image[order]
    _, first = np.unique(owner, return_index=True)
    return order[np.sort(first)][:count].tolist()
