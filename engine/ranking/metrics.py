"""Retrieval metrics: ranks from a matrix of scores and ids; recall at k, median and mean of ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.ranking.counter import RankCounter

Ids = Sequence[int] | Sequence[str] | np.ndarray

RECALLS = (1, 5, 10)

_BLOCK_ELEMENTS = 1 << 20


def ranks(scores: np.ndarray, query_ids: Ids, gallery_ids: Ids, tie_rule: str = "against") -> np.ndarray:
    """Return the 0-based ranks [Q]: for each query, the irrelevant items ahead of its best relevant one.

    `scores` are [Q,G], higher is better. An item is relevant to a query if their ids are equal (group ids,
    such as an image's name for its captions, or a class label); a query may have several relevant items.
    `tie_rule` is a key of `engine.ranking.counter.TIE_RULES`. Ranks are int64, or float64 with "average".
    Raises ValueError for a NaN or an infinite score, a query without a relevant item, and shapes that do not
    fit.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(query_ids), len(gallery_ids)):
        raise ValueError(
            f"expected scores [queries, gallery] = [{len(query_ids)}, {len(gallery_ids)}] to match the ids, "
            f"got {list(scores.shape)}"
        )
    counter = RankCounter(len(scores), tie_rule, np.result_type(scores, np.float32))
    query_groups, gallery_groups = group_numbers(query_ids, gallery_ids)
    check_every_group_occurs(query_groups, gallery_groups, query_ids, "query")
    rows = max(1, _BLOCK_ELEMENTS // max(1, scores.shape[1]))
    for start in range(0, len(scores), rows):
        block, queries = scores[start : start + rows], slice(start, start + rows)
        _check_finite(block, start)
        relevant = query_groups[queries, None] == gallery_groups
        counter.see_relevant_rows(queries, np.where(relevant, block, -np.inf))
        counter.see_rival_rows(queries, block, ~relevant)
    return counter.ranks()


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Return the percentage of queries whose best relevant item is among the first `k`.

    `ranks` [Q] are 0-based; a fractional rank is rounded up.
    """
    ranks = _checked_ranks(ranks)
    return 100.0 * np.count_nonzero(ranks + 1 <= k) / len(ranks)


def median_rank(ranks: np.ndarray) -> float:
    """Return the 1-based median rank as VSE++ defines it: floor(median of `ranks` [Q]) + 1."""
    return float(np.floor(np.median(_checked_ranks(ranks))) + 1)


def mean_rank(ranks: np.ndarray) -> float:
    """Return the 1-based mean rank: mean of `ranks` [Q] + 1."""
    return float(_checked_ranks(ranks).mean() + 1)


@dataclass(frozen=True)
class Metric:
    """A metric of one direction: its heading in tables, and the function `of` 0-based ranks [Q]."""

    heading: str
    of: Callable[[np.ndarray], float]
    decimals: int = 2
    lower_is_better: bool = False


# The metrics of each direction; `result.json`, the tables and the report show all of them.
METRICS = {
    **{f"r{k}": Metric(f"R@{k}", partial(recall_at_k, k=k)) for k in RECALLS},
    "medr": Metric("median", median_rank, decimals=1, lower_is_better=True),
    "meanr": Metric("mean", mean_rank, lower_is_better=True),
}


def summarize(i2t_ranks: np.ndarray, t2i_ranks: np.ndarray | None = None) -> dict[str, float]:
    """Return every metric of both directions, or of image to text alone, from their 0-based ranks.

    `i2t_ranks` are [images], `t2i_ranks` [captions]. The keys are those of `METRICS` after `i2t_` and `t2i_`
    (recalls in percent, ranks 1-based); `rsum`, the sum of the six recalls (three of one direction); and
    `mean_recall`, their mean.
    """
    directions = {"i2t": i2t_ranks} if t2i_ranks is None else {"i2t": i2t_ranks, "t2i": t2i_ranks}
    summary = {
        f"{direction}_{name}": metric.of(ranks)
        for direction, ranks in directions.items()
        for name, metric in METRICS.items()
    }
    recalls = [summary[f"{direction}_r{k}"] for direction in directions for k in RECALLS]
    summary["rsum"] = sum(recalls)
    summary["mean_recall"] = summary["rsum"] / len(recalls)
    return summary


def group_numbers(query_ids: Ids, gallery_ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Return both lists of ids as int32 group numbers: equal numbers for equal ids.

    Raises ValueError unless both are lists of integers, or both of strings.
    """
    query, gallery = np.asarray(query_ids), np.asarray(gallery_ids)
    integers = [np.issubdtype(ids.dtype, np.integer) for ids in (query, gallery)]
    if query.ndim != 1 or gallery.ndim != 1 or integers[0] != integers[1]:
        raise ValueError(
            "expected two lists of ids of one type, integers or strings, "
            f"got {query.dtype} {list(query.shape)} and {gallery.dtype} {list(gallery.shape)}"
        )
    numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1].astype(np.int32)
    return numbers[: len(query)], numbers[len(query) :]


def check_every_group_occurs(queries: np.ndarray, gallery: np.ndarray, query_ids: Ids, name: str) -> None:
    """Raise ValueError that names the first of `queries` whose group number is not in `gallery`."""
    lonely = np.flatnonzero(~np.isin(queries, gallery))
    if len(lonely):
        row = int(lonely[0])
        raise ValueError(
            f"expected a relevant item for every {name}, {name} {row} (id {query_ids[row]!s}) has none"
        )


def _check_finite(block: np.ndarray, first_row: int) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        where = f"query {first_row + row}, gallery item {column}"
        raise ValueError(f"expected finite scores, got {block[row, column]} at {where}")


def _checked_ranks(ranks: np.ndarray) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not len(ranks):
        raise ValueError(f"expected a non-empty list of ranks, got shape {list(ranks.shape)}")
    return ranks
