"""What an index searches at one moment: rows in parts, each with the engine that knows them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.index.card import Card
from serving.index.engines import exact, order
from serving.index.filters import parse_filter
from serving.index.items import Items, State
from serving.index.vectors import take_rows

THREADS = 2  # that share one query
_DIRECT_BYTES = 32 << 20  # if so few vectors are allowed, they are all scored


@dataclass(frozen=True)
class Part:
    """Rows from `start` to `end`, the engine that searches them, and what scores them all if it fails."""

    start: int
    end: int
    engine: exact.Engine
    everything: exact.Everything


@dataclass(frozen=True)
class View:
    """What is searched: it never changes, and a newer one takes its place."""

    state: State
    vectors: np.ndarray  # [N,D]
    checks: np.ndarray  # [N]
    alive: np.ndarray | None  # bool [N]; None: all
    parts: tuple[Part, ...]


def allowed_rows(view: View, items: Items, where: str | None) -> np.ndarray | None:
    """Return the rows that may be found, bool [N]; None: all."""
    if where is None:
        return view.alive
    rows = items.rows_where(parse_filter(where, items.keys()))
    allowed = np.zeros(len(view.vectors), bool)
    allowed[rows[rows < len(allowed)]] = True
    return allowed if view.alive is None else allowed & view.alive


def search_view(
    view: View,
    card: Card,
    folder: Path,
    queries: np.ndarray,
    k: int,
    allowed: np.ndarray | None,
    of_pictures: bool,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scores and rows of the best for each of `queries` [Q,D]."""
    if card.measure == "order":
        return [
            order.search_by_order(
                view.vectors, view.checks, query, k, allowed, card.holds == "pictures", of_pictures, folder
            )
            for query in queries
        ]

    def take(rows: np.ndarray) -> np.ndarray:
        return take_rows(folder, view.vectors, view.checks, rows)

    if allowed is not None and allowed.sum() * view.vectors.shape[1] * 4 <= _DIRECT_BYTES:
        rows = np.flatnonzero(allowed)
        taken = take(rows)
        return [exact.best_first(exact.exact_scores(taken, query), rows, k) for query in queries]
    found: list[list] = [[] for _ in queries]
    for part in view.parts:
        inside = None if allowed is None else allowed[part.start : part.end]
        bests = part.engine.search(
            lambda rows, start=part.start: take(rows + start), queries, k, inside, part.everything
        )
        for each, (scores, rows) in zip(found, bests, strict=True):
            each.append((scores, rows + part.start))
    return [each[0] if len(each) == 1 else _merged(each, k) for each in found]


def _merged(found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    if not found:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return exact.best_first(scores, rows, k)
