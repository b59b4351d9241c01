"""Recounts a result by other right pairs from its kept lists, and says where the lists are too short.

R@K, R-precision and mAP@R look at the first items alone, so a list that is long enough decides them exactly.
A rank beyond the list is not known, only that it is beyond; no number that is returned depends on it.
"""

from dataclasses import dataclass, replace

import numpy as np

from config.errors import UserError
from datasets.relevance import Relevance
from engine.certificates.sides import Side, Sides
from engine.certificates.stored import StoredRanks
from engine.inspection.kept_lists import KeptLists
from engine.ranking.counter import mean_over_ties
from engine.ranking.precisions import precisions_at_r


@dataclass(frozen=True)
class _List:
    """The kept list of a query by captions or images: `items` and `scores` [n], and what is known beyond.

    `last` is the score that no unlisted item exceeds, -infinity if all items are listed.
    """

    items: np.ndarray
    scores: np.ndarray
    last: float


def recounted(ranks: StoredRanks, lists: KeptLists, relevance: Relevance) -> tuple[Sides, int]:
    """Return both directions counted by `relevance`, which adds pairs to that of `lists`.

    Also returns the number of queries whose R items are more than the lists hold; if there is one, the sides
    have no precisions. Raises UserError where a list is too short for R@K.
    """
    found = {}
    unsure = 0
    for direction in ("i2t", "t2i"):
        side, too_short = _side(ranks, lists, relevance, direction)
        found[f"{direction}_"] = side
        unsure += too_short
    if unsure:
        found = {prefix: replace(side, precisions={}) for prefix, side in found.items()}
    return found, unsure


def _side(ranks: StoredRanks, lists: KeptLists, relevance: Relevance, direction: str) -> tuple[Side, int]:
    stored = ranks.sides[f"{direction}_"]
    by_image = direction == "i2t"
    old, new = (
        (lists.relevance, relevance) if by_image else (lists.relevance.turned, relevance.turned)
    )  # queries as rows
    own, others = lists.image_fold, lists.caption_fold
    own, others = (own, others) if by_image else (others, own)
    queries = np.flatnonzero(new.of_images)
    gallery = np.bincount(others, minlength=int(own.max(initial=0)) + 1)[own[queries]]
    deepest = max(stored.recalls)
    known = {int(query): place for place, query in enumerate(stored.query)}
    favour, against = np.full((2, len(queries)), deepest, np.int64)
    precise, too_short, wrong = [], 0, 0
    for place, query in enumerate(queries.tolist()):
        listed = _listed(lists, direction, query, int(gallery[place]))
        items = new.captions[new.starts[query] : new.starts[query + 1]]
        is_right = np.isin(listed.items, items)
        precise.append(_leading(listed, is_right, len(items)))
        too_short += precise[-1] is None
        if query in known:
            was = known[query]
            favour[place], against[place] = stored.favour[was], stored.against[was]
        if new.of_images[query] == old.of_images[query]:
            continue
        added = np.setdiff1d(items, old.captions[old.starts[query] : old.starts[query + 1]])
        best_of_old = _best(lists, direction, query)
        scores = np.array([_score(lists, direction, query, item) for item in added.tolist()])
        if np.isneginf(scores).any() and max(best_of_old, scores.max()) <= listed.last:
            # Judged on another model's lists: beyond this one, where it may be the best.
            wrong += np.count_nonzero(~is_right) < deepest
        if scores.max() <= best_of_old and query in known:
            against[place] -= np.count_nonzero(scores == best_of_old)
            continue
        best = scores.max()
        ahead = [
            np.count_nonzero(~is_right & (listed.scores > best)),
            np.count_nonzero(~is_right & (listed.scores >= best)),
        ]
        if best < listed.last:
            wrong += ahead[0] < deepest
        elif best == listed.last:
            wrong += ahead[1] < deepest
        favour[place], against[place] = ahead
    if wrong:
        width = lists.lists(direction)[0].shape[1]
        raise UserError(
            f"lists of {width} items are too short to recount {wrong} queries: evaluate again with "
            f"EVAL.LIST_LENGTH={2 * width}"
        )
    precisions = {} if too_short else _precisions(precise, new.of_images[queries], ranks.tie_rule)
    owner = queries if by_image else lists.caption_image[queries]
    arrays = (favour, against, queries, owner, own[queries], new.of_images[queries], gallery)
    return Side(*arrays, stored.recalls, precisions, median=False), too_short


def _listed(lists: KeptLists, direction: str, query: int, gallery: int) -> _List:
    """Return the list of a query; a caption of an image's list becomes all that say the same."""
    places, scores = (each[query] for each in lists.lists(direction))
    there = places >= 0
    places, scores = places[there], scores[there]
    if direction == "i2t":
        same = [lists.alike(caption) for caption in places.tolist()]
        scores = np.repeat(scores, [len(each) for each in same])
        places = np.concatenate(same) if same else places
    whole = len(places) == gallery
    last = -np.inf if whole or not len(scores) else float(scores[-1])
    return _List(places, scores, last)


def _best(lists: KeptLists, direction: str, query: int) -> float:
    _, scores = lists.right(direction, query)
    return float(scores[0]) if len(scores) else -np.inf


def _score(lists: KeptLists, direction: str, query: int, item: int) -> float:
    """Return the score of a pair that a list of either direction holds; -infinity if none does."""
    image, caption = (query, item) if direction == "i2t" else (item, query)
    same = lists.sentence[lists.i2t[image]] == lists.sentence[caption]
    for hits, scores in (
        (same & (lists.i2t[image] >= 0), lists.i2t_scores[image]),
        (lists.t2i[caption] == image, lists.t2i_scores[caption]),
    ):
        if hits.any():
            return float(scores[hits.argmax()])
    return -np.inf


def _leading(listed: _List, is_right: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scores of the rivals and of the right items that may be among the first `count`.

    None where the list does not tell.
    """
    if len(listed.scores) < count or (np.isfinite(listed.last) and listed.scores[count - 1] <= listed.last):
        return None
    return listed.scores[~is_right][:count], listed.scores[is_right]


def _precisions(
    parts: list[tuple[np.ndarray, np.ndarray]], counts: np.ndarray, tie_rule: str
) -> dict[str, np.ndarray]:
    widest = int(counts.max())
    rivals, right = np.full((2, len(parts), widest), -np.inf)
    for row, (of_rivals, of_right) in enumerate(parts):
        rivals[row, : len(of_rivals)], right[row, : len(of_right)] = of_rivals, of_right
    average, share = mean_over_ties(
        tie_rule, lambda first, *of: precisions_at_r(*of, first), rivals, right, counts
    )
    return {"map_at_r": average, "r_precision": share}
