"""Finds the pairs of a tile whose scores may exceed a threshold, by products of quantised vectors.

The idea: vectors are rounded to 16-bit integers, whose products are exact and take half the time of float32
products. The error of such a product is bounded, so that a pair whose product is below the threshold by more
than the bound cannot matter. Only the other pairs are multiplied in float32, or, if they are many, the whole
tile.

In detail, a vector a is s q + r, with int16 numbers q, one scale s for all vectors, and a rounding error r of
length rho at most. With L the length of the longest vector, |a b - s s q_a q_b| <= 2 L rho + rho rho
(Cauchy-Schwarz), about a thousandth of L L.

The screen of images and captions (`screen`) counts scores that are rounded once. Here the leading scores
themselves are kept, so that it would round many more pairs: on a CNN's features it took 1.6 times as long.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

import numpy as np

from engine.ranking.tiles import VectorBlock
from models.kernels.mkl import library, multiply_integers_on_one_thread
from models.kernels.row_blocks import for_each_block

_FEWEST = 8192  # vectors; products of fewer vectors take too little time to matter
_NARROWEST = 256  # dimensions; products of shorter vectors take too little time to matter
_LONGEST = 46000  # length of a quantised vector: sums of products then fit into 32 bits, in any order
_LARGEST = 32767  # of int16
_ROUNDING = 0.51  # rounding error of a number at most, in units of the scale
_SLACK = 1e-5  # rounding error of a float32 product at most, as a share of L L
_FEW = 1 / 64  # up to this share of a tile's pairs, multiplying pair by pair is quicker
_PATIENCE, _PAUSE = 4, 28  # after 4 tiles in a row with more pairs, 28 are not tried
RUN = 8  # tiles of one block of queries that come one after another
_BLOCKS_TOGETHER = 6  # blocks of queries that see the same runs of items
_KEPT_BYTES = 60 << 20  # of quantised vectors: room for so many blocks and a run, of 1024 x 2048 numbers

Thresholds = Callable[[np.ndarray], np.ndarray]  # places of queries [n] -> what a score must exceed [n]


class Bounds:
    """Bounds on the scores of blocks of queries with blocks of items.

    `are_worthwhile` tells whether bounds can save time at all, `are_promising` whether to try the next tile.
    """

    def __init__(self, queries: list[VectorBlock], items: list[VectorBlock]) -> None:
        self._queries, self._items = queries, items
        longest, largest, width = _sizes(items if queries is items else [*queries, *items])
        self._scale = max(longest / _LONGEST, largest / _LARGEST, float(np.finfo(np.float32).tiny))
        rest = _ROUNDING * self._scale * width**0.5
        self._margin = rest * (2 * longest + rest) + _SLACK * longest**2
        self._made: OrderedDict[int, np.ndarray] = OrderedDict()  # the last used come last
        self._made_bytes, self._lock = 0, Lock()
        self._failures: Counter[int] = Counter()

    @staticmethod
    def in_order(tiles: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return `tiles` in runs of one block of queries, in an order in which few vectors are kept."""
        return sorted(tiles, key=lambda tile: (tile[0] // _BLOCKS_TOGETHER, tile[1] // RUN, tile))

    @staticmethod
    def are_worthwhile(embeddings: np.ndarray) -> bool:
        """Tell whether bounds can save time on `embeddings` [N,D], and MKL is there to multiply integers."""
        return len(embeddings) > _FEWEST and embeddings.shape[1] > _NARROWEST and library() is not None

    def are_promising(self, block: int) -> bool:
        """Tell whether to make the integer products of the next tile of a block of queries.

        The answer is False for `_PAUSE` tiles after `_PATIENCE` tiles in a row with too many pairs; then the
        next tile is tried again.
        """
        return self._failures[block] % (_PATIENCE + _PAUSE) < _PATIENCE

    def products(self, tile: tuple[int, int]) -> np.ndarray | None:
        """Return the products [Q,G] of a tile's quantised vectors; None if a vector has several items.

        Several threads may call this at once.
        """
        rows, columns = self._queries[tile[0]], self._items[tile[1]]
        portions = rows.portions + columns.portions
        if len(portions) > 2 or any(portion.vector_of is not None for portion in portions):
            return None
        return multiply_integers_on_one_thread(self._quantised(rows), self._quantised(columns).T)

    def pairs(
        self, tile: tuple[int, int], side: int, products: np.ndarray | None, thresholds: Thresholds
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return query, item and score [n] of all pairs that may exceed their threshold, query by query.

        Queries and items are indices in their blocks. The queries are the tile's rows (`side` 0) or columns
        (1). `products` are those of the tile, None if they were not made. Returns None without products, and
        if there are too many pairs.
        """
        rows, columns = self._queries[tile[0]], self._items[tile[1]]
        matters = None
        if products is not None:
            limit = self._limits(thresholds((rows, columns)[side].portions[0].places))
            matters = products > (limit if side else limit[:, None])
        if matters is None or np.count_nonzero(matters) > _FEW * matters.size:
            self._failures[tile[side]] += 1
            return None
        self._failures[tile[side]] = 0
        row, column = np.divmod(np.flatnonzero(matters), matters.shape[1])
        scores = np.empty(len(row), np.float32)

        def multiply(part: slice) -> None:
            scores[part] = np.einsum("nd,nd->n", rows.take(row[part]), columns.take(column[part]))

        for_each_block(multiply, len(row), 2 * rows.source[0].nbytes)
        if not side:
            return row, column, scores
        by_column = np.argsort(column, kind="stable")
        return column[by_column], row[by_column], scores[by_column]

    def _quantised(self, block: VectorBlock) -> np.ndarray:
        """Return the quantised vectors of a block, int16 [V,D]."""
        with self._lock:  # another thread that needs the block waits for it
            if id(block) not in self._made:
                scaled = block.vectors * np.float32(1 / self._scale)
                self._made[id(block)] = np.rint(scaled, out=scaled).astype(np.int16)
                self._made_bytes += self._made[id(block)].nbytes
                while self._made_bytes > _KEPT_BYTES and len(self._made) > 1:
                    self._made_bytes -= self._made.popitem(last=False)[1].nbytes
            self._made.move_to_end(id(block))
            return self._made[id(block)]

    def _limits(self, thresholds: np.ndarray) -> np.ndarray:
        """Return int32 [n]: a score whose integer product is up to its limit is below its threshold [n]."""
        lowest = np.floor((thresholds.astype(np.float64) - self._margin) / self._scale**2) - 1
        limits = np.iinfo(np.int32)
        return np.clip(lowest, limits.min, limits.max).astype(np.int32)


def _sizes(blocks: list[VectorBlock]) -> tuple[float, float, int]:
    """Return the length of the longest vector, the largest absolute value, and the number of dimensions."""
    longest = largest = 0.0
    for block in blocks:
        vectors = block.vectors
        longest = max(longest, float(np.einsum("nd,nd->n", vectors, vectors).max()))
        largest = max(largest, float(vectors.max()), -float(vectors.min()))
    return longest**0.5, largest, vectors.shape[1]
