"""Which scores of a tile can matter, from products of whole numbers, which take half the time.

A vector a is s q + r: whole numbers q of 16 bits, one scale s for all, and a rest r of length rho at most.
The products of the whole numbers are exact, and with L the longest vector's length
|a b - s s q_a q_b| <= 2 L rho + rho rho (Cauchy-Schwarz), about a thousandth of L L. Only pairs that may be
above what matters are multiplied in full; where that would be many, the whole tile is.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np

from engine.ranking.tiles import VectorBlock
from models.kernels.mkl import library, multiply_integers_on_one_thread
from models.kernels.row_blocks import for_each_block

_FEWEST = 8192  # vectors, or their products are no matter
_NARROWEST = 256  # numbers a vector
_LONGEST = 46000  # of whole numbers: the products' sums fit into 32 bits, whatever their order
_LARGEST = 32767
_ROUNDING = 0.51  # the largest rest of a number, in scales
_SLACK = 1e-5  # of the lengths' product: more than products of float32 are off
_FEW = 1 / 64  # share of a tile's pairs that is quicker multiplied pair by pair
_PATIENCE, _PAUSE = 4, 28  # tiles in a row with more, after which so many are not tried

Bars = Callable[[np.ndarray], np.ndarray]  # places [n] -> what a score must exceed to matter [n]


class Bounds:
    """The pairs of a tile that can matter.

    queries, items: the blocks whose scores are asked for. `are_worthwhile` says whether to make them at all.
    """

    def __init__(self, queries: list[VectorBlock], items: list[VectorBlock]) -> None:
        self._queries, self._items = queries, items
        longest, largest, width = _sizes(items if queries is items else [*queries, *items])
        self._scale = max(longest / _LONGEST, largest / _LARGEST, float(np.finfo(np.float32).tiny))
        rest = _ROUNDING * self._scale * width**0.5
        self._margin = rest * (2 * longest + rest) + _SLACK * longest**2
        self._made: dict[int, np.ndarray] = {}
        self._failures: Counter[int] = Counter()

    @staticmethod
    def are_worthwhile(embeddings: np.ndarray) -> bool:
        """Whether bounds can spare work on `embeddings` [N,D]."""
        return len(embeddings) > _FEWEST and embeddings.shape[1] > _NARROWEST and library() is not None

    def are_hopeful(self, block: int) -> bool:
        """Tell whether to make the products of the next tiles of a block of queries.

        False when `_PATIENCE` of its tiles in a row had too many pairs, for the next `_PAUSE`.
        """
        return self._failures[block] % (_PATIENCE + _PAUSE) < _PATIENCE

    def products(self, tile: tuple[int, int]) -> np.ndarray | None:
        """Return the products [Q,G] of a tile's whole numbers; None where vectors have several items.

        Threads may ask for several tiles.
        """
        rows, columns = self._queries[tile[0]], self._items[tile[1]]
        portions = rows.portions + columns.portions
        if len(portions) > 2 or any(portion.vector_of is not None for portion in portions):
            return None
        return multiply_integers_on_one_thread(self._whole(rows), self._whole(columns).T)

    def pairs(
        self, tile: tuple[int, int], side: int, products: np.ndarray | None, bars: Bars
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return query, item and score [n] of the pairs that can matter, query by query.

        side: whether the queries are the tile's rows (0) or its columns (1).
        `products` are the tile's. None: they were not made, or there are too many pairs.
        """
        rows, columns = self._queries[tile[0]], self._items[tile[1]]
        matters = None
        if products is not None:
            bar = self._wholes(bars((rows, columns)[side].portions[0].places))
            matters = products > (bar if side else bar[:, None])
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

    def _whole(self, block: VectorBlock) -> np.ndarray:
        """Return a block's whole numbers, int16 [V,D]."""
        if id(block) not in self._made:
            scaled = block.vectors * np.float32(1 / self._scale)
            self._made[id(block)] = np.rint(scaled, out=scaled).astype(np.int16)
        return self._made[id(block)]

    def _wholes(self, bars: np.ndarray) -> np.ndarray:
        """Return int32 [n]: products up to these stay below scores of `bars` [n]."""
        lowest = np.floor((bars.astype(np.float64) - self._margin) / self._scale**2) - 1
        limits = np.iinfo(np.int32)
        return np.clip(lowest, limits.min, limits.max).astype(np.int32)


def _sizes(blocks: list[VectorBlock]) -> tuple[float, float, int]:
    """Return the length of the longest vector, the largest number, and how many numbers a vector has."""
    longest = largest = 0.0
    for block in blocks:
        vectors = block.vectors
        longest = max(longest, float(np.einsum("nd,nd->n", vectors, vectors).max()))
        largest = max(largest, float(vectors.max()), -float(vectors.min()))
    return longest**0.5, largest, vectors.shape[1]
