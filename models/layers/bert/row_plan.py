"""The order in which BERT's layers take packed rows, and which rows of the last layer are asked for."""

from dataclasses import dataclass

import numpy as np

from models.kernels.row_blocks import row_blocks
from models.layers.bert.sequences import MASKED, Sequences

# Rows of a block: products reach their full speed, and the calls around them are few.
ROWS_TOGETHER = 1024
_BLOCK_BYTES = 1 << 20  # an item of this size is a block of its own in `row_blocks`
_SCORES_TOGETHER = 1 << 16  # of attention, few enough to stay in the cache


@dataclass(frozen=True)
class Run:
    """Adjacent sequences of L rows each, of which A ask: their `rows` and those that ask, within a block.

    `mask` [L,n,1,A] is added to the scores of attention, keys first; None: every row attends to all.
    """

    count: int
    rows: slice
    queries: slice
    mask: np.ndarray | None


@dataclass(frozen=True)
class Block:
    """Sequences that one thread takes at once: their `rows` in the plan, and their `places` in its result.

    `asked` are the rows that the last layer computes, within the block. `asked_runs` are the runs of the last
    layer, `runs` those of the others, in which all rows ask.
    """

    rows: slice
    places: slice
    asked: np.ndarray
    runs: list[Run]
    asked_runs: list[Run]


@dataclass(frozen=True)
class RowPlan:
    """The order of the rows, blocks of them, and where the rows of the result stand among those asked for.

    `origin` [P] are the rows that are computed: those of sequences of which a row is asked for, sequences of
    equal length together. The blocks' results, one after another, are the rows `places` [M] of the result.
    """

    origin: np.ndarray
    places: np.ndarray
    blocks: list[Block]


def plan_rows(sequences: Sequences, asked: np.ndarray, heads: int) -> RowPlan:
    """Return the plan for the rows `asked` [M] of packed `sequences`."""
    length, ends = sequences.length, sequences.ends
    of_asked = np.searchsorted(ends, asked, side="right") - 1  # [M]
    counts = np.bincount(of_asked, minlength=len(length))
    order = np.lexsort((counts, length))
    order = order[counts[order] > 0]
    length, counts = length[order], counts[order]
    new_ends, asked_ends = (np.concatenate([[0], np.cumsum(numbers)]) for numbers in (length, counts))
    moved = ends[order] - new_ends[:-1]
    origin = np.repeat(moved, length) + np.arange(new_ends[-1])
    rank = np.empty(len(sequences.length), np.int64)
    rank[order] = np.arange(len(order))
    rank = rank[of_asked]
    places = np.lexsort((asked, rank))
    asked_rows = (asked - moved[rank])[places]
    kinds = None if sequences.kinds is None else sequences.kinds[origin]
    blocks = []
    for start, stop in _edges(new_ends):
        rows = slice(int(new_ends[start]), int(new_ends[stop]))
        of_result = slice(int(asked_ends[start]), int(asked_ends[stop]))
        here = asked_rows[of_result] - rows.start
        own_kinds = None if sequences.attends is None else kinds[rows]
        sizes, asking = length[start:stop], counts[start:stop]
        everyone = np.arange(rows.stop - rows.start)
        runs = _runs(sizes, sizes, everyone, own_kinds, sequences.attends, heads)
        asked_runs = _runs(sizes, asking, here, own_kinds, sequences.attends, heads)
        blocks.append(Block(rows, of_result, here, runs, asked_runs))
    return RowPlan(origin, places, blocks)


def _edges(ends: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last + 1 of the sequences of each block, equally many rows for every thread."""
    stops = [block.stop for block in row_blocks(int(ends[-1]), _BLOCK_BYTES // ROWS_TOGETHER)]
    edges = np.unique([0, *np.searchsorted(ends, stops[:-1]), len(ends) - 1]).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def _runs(
    length: np.ndarray,
    counts: np.ndarray,
    asked: np.ndarray,
    kinds: np.ndarray | None,
    attends: np.ndarray | None,
    heads: int,
) -> list[Run]:
    """Return the runs of sequences with `length` rows each, of which `counts` ask: the rows `asked`."""
    change = np.flatnonzero((np.diff(length) != 0) | (np.diff(counts) != 0)) + 1
    edges, runs, row, query = [0, *change.tolist(), len(length)], [], 0, 0
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        rows_each, asked_each = int(length[first]), int(counts[first])
        most = max(1, _SCORES_TOGETHER // (heads * rows_each * asked_each))
        for start in range(first, last, most):
            count = min(most, last - start)
            rows = slice(row, row + count * rows_each)
            queries = slice(query, query + count * asked_each)
            row, query = rows.stop, queries.stop
            mask = None
            if attends is not None:
                of_keys = kinds[rows].reshape(count, rows_each)
                of_queries = kinds[asked[queries]].reshape(count, asked_each)
                seen = attends[of_queries[:, None, :], of_keys[:, :, None]]  # [n,L,A]
                mask = np.where(seen, 0, MASKED).astype(np.float32).transpose(1, 0, 2)[:, :, None]
            runs.append(Run(count, rows, queries, mask))
    return runs
