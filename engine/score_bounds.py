"""Which scores of a tile can matter, from bounds that cost an eighth of the product.

In the axes of the largest variance, an eighth as many as an embedding is wide, a CNN's embedding has most of
its length. The product of these parts plus that of the lengths of the rest is a bound on the score
(Cauchy-Schwarz). Only pairs whose bound is above what matters are multiplied in full; where that would be
many, the whole tile is.
"""

from collections.abc import Callable

import numpy as np

from engine.tiles import Block, Items

_SAMPLE = 8192  # embeddings that tell the axes; no bounds for fewer
_WIDEST_PLAIN = 256  # embeddings so narrow are multiplied in full at once
_ITERATIONS = 4  # that turn a sample's vectors into its longest axes
_PATIENCE = 3  # tiles in vain, then few are tried
_SLACK = 1e-5  # of the lengths' product: more than products of float32 are off
_FEW = 1 / 256  # share of a tile's pairs that is quicker multiplied pair by pair


def long_axes(embeddings: np.ndarray) -> np.ndarray | None:
    """Return about the D/8 longest principal axes [D,D/8] of `embeddings` [N,D], a column each.

    They are a sample's; None where bounds are not worth their while. Any axes at right angles give bounds:
    those of power iterations come near the best, much sooner than eigenvectors do.
    """
    if embeddings.shape[1] <= _WIDEST_PLAIN or len(embeddings) <= _SAMPLE:
        return None
    sample = embeddings[:: max(1, len(embeddings) // _SAMPLE)]
    spread = sample.T @ sample
    axes = sample[: sample.shape[1] // 8].T
    for _ in range(_ITERATIONS):
        axes = np.linalg.qr(spread @ axes)[0]
    return axes


class Heads:
    """Blocks, and their vectors in A `axes`, with at least the lengths of the rests, made when asked for."""

    def __init__(self, blocks: list[Block], axes: np.ndarray | None) -> None:
        self.blocks = blocks
        self._axes = axes
        self._made: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        """Return [V,A+1] for a block's V vectors."""
        if number not in self._made:
            vectors = self.blocks[number].vectors
            head, squares = vectors @ self._axes, _squares(vectors)
            rest = np.sqrt(np.maximum(squares - _squares(head), 0) + _SLACK * squares)
            self._made[number] = np.concatenate([head, rest[:, None]], axis=1)
        return self._made[number]

    def forget(self) -> None:
        """Free what was made."""
        self._made.clear()


class Bounds:
    """Scores of a tile that are exact where they may matter, and -infinity elsewhere.

    queries, items: the blocks whose scores are asked for.
    """

    def __init__(self, queries: Heads, items: Heads) -> None:
        self._queries, self._items = queries, items
        self._failures = 0  # tiles in a row that had to be multiplied in full

    @property
    def in_vain(self) -> bool:
        """Whether several tiles in a row had to be multiplied in full."""
        return self._failures > _PATIENCE

    def scores(
        self, tile: tuple[int, int], bars: Callable[[np.ndarray], np.ndarray], mirrored: bool
    ) -> list[tuple[Items, Items, np.ndarray]] | None:
        """Return what `Tiles.scores` yields; nothing where nothing matters, None where all must be known.

        bars: returns of the queries at some places [n] what a score must exceed to matter. mirrored: items
        are queries too.
        """
        rows, columns = self._queries.blocks[tile[0]], self._items.blocks[tile[1]]
        portions = rows.portions + columns.portions
        if len(portions) > 2 or any(portion.vectors is not None for portion in portions):
            self._failures += 1
            return None
        (queries,), (items,) = rows.portions, columns.portions
        bounds = self._queries[tile[0]] @ self._items[tile[1]].T
        slack = _SLACK * np.float32(_longest(rows) * _longest(columns))
        matters = bounds > (bars(queries.places) - slack)[:, None]
        if mirrored:
            matters |= bounds > bars(items.places) - slack
        count = np.count_nonzero(matters)
        self._failures = self._failures + 1 if count > _FEW * matters.size else 0
        if self._failures:
            if self.in_vain:
                self._queries.forget()
                self._items.forget()
            return None
        if not count:
            return []
        bounds.fill(-np.inf)
        places = np.nonzero(matters)
        for start in range(0, count, len(rows.vectors)):
            row, column = (side[start : start + len(rows.vectors)] for side in places)
            bounds[row, column] = np.einsum("nd,nd->n", rows.vectors[row], columns.vectors[column])
        return [(queries, items, bounds)]


def _longest(block: Block) -> float:
    return float(np.sqrt(_squares(block.vectors).max()))


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors)
