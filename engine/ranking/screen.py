"""Screens the scores of tiles: coarse products tell on which side of a bar most of them are.

Each query has a bar that a score must reach to matter, such as that of its best relevant item. Where a coarse
product is farther from the bar than its error may be (`coarse`), nothing more is computed. The pairs that are
left open are multiplied one by one, the last ones rounded once (`rounded`). So what is counted are the scores
themselves, whatever products were made on the way.

If too many pairs of a tile are open, it is made again by finer products, and at last in whole. A kind of
products that fails so on several tiles in a row is then not tried for a while, and for twice as long if it
fails again.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import numpy as np

from engine.ranking.coarse import Operand, Products, kinds_of_products, lengths, margins, rounding_margin
from engine.ranking.counter import true_in_rows
from engine.ranking.rounded import rounded_pairs, rounded_products
from engine.ranking.tiles import VectorBlock
from models.kernels.mkl import multiply_pairs

Tile = tuple[int, int]  # indices of a block of rows and a block of columns
Found = TypeVar("Found")
Settle = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_FEW = 1 / 64  # up to this share of a tile's pairs, multiplying pair by pair is quicker
_PATIENCE, _PAUSE = 4, 28  # after 4 tiles in a row with more open pairs, 28 are not tried, then 56 ...
# Bytes of scores, or of vectors, that are looked at together. Fewer would stay in a core's second-level
# cache, but threads that call NumPy more often wait more often for the interpreter's lock.
_PIECE = 1 << 20
_SMALLEST = 2.0**-126
_KEPT_BYTES = 72 << 20  # of operands: room for more than `_ROWS_TOGETHER` blocks of 1024 x 2048 numbers
_ROWS_TOGETHER = 8


class TooManyOpenError(Exception):
    """More pairs are open than can be multiplied one by one."""


class TileScores:
    """Scores [V,W] of a tile: exact ones, or coarse ones with the means to settle what they leave open.

    `scores` are in units of `unit`. With `margins`, those of the rows [V] and of the columns [W], they are
    coarse: each may be off by the margin of its row, and by that of its column. `settle` takes indices of
    rows and columns and bars, [n] each; it returns scores [n] that compare with the bars as true scores do,
    and the scores themselves where the bar is NaN.
    """

    def __init__(
        self,
        scores: np.ndarray,
        unit: float = 1.0,
        margins: tuple[np.ndarray, np.ndarray] | None = None,
        settle: Settle | None = None,
    ) -> None:
        self._scores, self._unit, self._margins, self._settle = scores, unit, margins, settle

    def of_items(self, rows: np.ndarray | None, columns: np.ndarray | None) -> "TileScores":
        """Return the scores of items whose vectors are `rows` [I] and `columns` [T]; None: as they are."""
        scores, which = self._scores, (rows, columns)
        for axis in (0, 1):
            if which[axis] is not None:
                scores = scores.take(which[axis], axis=axis)
        if self._margins is None:
            return TileScores(scores)

        def settle(row: np.ndarray, column: np.ndarray, bars: np.ndarray) -> np.ndarray:
            return self._settle(_taken(row, rows), _taken(column, columns), bars)

        margins = [each if of is None else each[of] for each, of in zip(self._margins, which, strict=True)]
        return TileScores(scores, self._unit, tuple(margins), settle)

    @contextmanager
    def without(self, rows: np.ndarray, columns: np.ndarray) -> Iterator[None]:
        """Leave the pairs of `rows` [n] and `columns` [n] out for a while: they reach no bar."""
        values = self._scores[rows, columns]
        self._scores[rows, columns] = np.nan
        try:
            yield
        finally:
            self._scores[rows, columns] = values

    def ahead(self, side: int, bars: np.ndarray) -> np.ndarray:
        """Return how many scores are at least the bar of each query, and how many are higher: int64 [2,Q].

        The queries are the rows (`side` 0) or the columns (1). Raises `TooManyOpenError`.
        """
        low, high = self._limits(side, bars)
        found = np.zeros((2, len(bars)), np.int64)
        open_pairs = []
        for rows in _pieces(self._scores):
            part = self._scores[rows]
            above = part > (high if side else high[rows, None])
            reach = self._reaching(part, low if side else low[rows, None])
            queries = slice(None) if side else rows
            found[1, queries] += true_in_rows(above.T if side else above)
            if self._margins is None:
                found[0, queries] += true_in_rows(reach.T if side else reach)
            else:
                open_pairs.append(np.flatnonzero(above != reach) + rows.start * part.shape[1])
                self._check_few(open_pairs)
        if self._margins is not None:
            found[0] = found[1]
            row, column = self._pairs(open_pairs)
            query = column if side else row
            scores = self._settle(row, column, bars[query])
            for count, ahead in zip(found, (scores >= bars[query], scores > bars[query]), strict=True):
                count += np.bincount(query[ahead], minlength=len(bars))
        return found

    @property
    def exact(self) -> np.ndarray | None:
        """Return the scores [V,W], or None if they are coarse."""
        return self._scores if self._margins is None else None

    def kth_at_least(self, side: int, k: int) -> np.ndarray:
        """Return numbers [Q] that are less than the k-th highest score of each query.

        The queries are the rows (`side` 0) or the columns (1). -infinity stands where there are too few.
        """
        bounds = lower_bounds(self._scores.T if side else self._scores, k)
        if self._margins is None:
            return np.nextafter(bounds, np.float32(-np.inf))
        return self._bounds(bounds, self._margins[side])[0]

    def may_reach(
        self, side: int, bars: np.ndarray, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs whose score may be at least their query's bar: query, item [n].

        Then come numbers [n] that their scores lie between, or twice the scores if they are exact. Nothing is
        multiplied. The queries are the rows (`side` 0) or the columns (1), in ascending order. Raises
        `TooManyOpenError` for more than `most` pairs.
        """
        low, _ = self._limits(side, bars)
        found, count = [], 0
        for rows in _pieces(self._scores):
            reach = self._reaching(self._scores[rows], low if side else low[rows, None])
            found.append(np.flatnonzero(reach) + rows.start * reach.shape[1])
            count += len(found[-1])
            if most is not None and count > most:
                raise TooManyOpenError
        pair = self._pairs(found)
        query, item = pair[side], pair[1 - side]
        scores = self._scores[pair]
        exact = self._margins is None
        bounds = (scores, scores) if exact else self._bounds(scores, self._margins[side][query])
        found = query, item, *bounds
        if side:
            order = np.argsort(query.astype(np.min_scalar_type(len(bars))), kind="stable")  # 16 bits: radix
            found = tuple(each[order] for each in found)
        return found

    def settle(self, side: int, queries: np.ndarray, items: np.ndarray, bars: np.ndarray) -> np.ndarray:
        """Return scores [n] of pairs that compare with `bars` [n] as true ones do; with NaN, the true ones.

        The `queries` [n] are rows (`side` 0) or columns (1). Raises `TooManyOpenError` for too many pairs.
        """
        self._check_few([queries])
        pair = (items, queries) if side else (queries, items)
        return self._settle(*pair, bars)

    def _reaching(self, scores: np.ndarray, low: np.ndarray) -> np.ndarray:
        return scores >= low if self._margins is None else scores > low

    def _limits(self, side: int, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return limits [Q] twice: coarse scores up to the first are below the bars.

        Those above the second are above the bars.
        """
        if self._margins is None:
            return bars, bars
        bars = bars.astype(np.float64)
        return tuple(_outward((bars + sign * self._margins[side]) / self._unit, sign) for sign in (-1, 1))

    def _bounds(self, coarse: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what scores [n] are at least and at most, for `coarse` ones with these `margins` [n]."""
        middle = coarse.astype(np.float64) * self._unit
        return tuple(_outward(middle + sign * margins, sign) for sign in (-1, 1))

    def _check_few(self, places: list[np.ndarray]) -> None:
        if sum(map(len, places)) > _FEW * self._scores.size:
            raise TooManyOpenError

    def _pairs(self, places: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        found = np.concatenate(places) if places else np.empty(0, np.int64)
        return np.divmod(found, max(1, self._scores.shape[1]))


class Screen:
    """The coarse products of blocks of `rows` and `columns`, and the scores of what they leave open.

    Several threads may use a screen at once.
    """

    def __init__(self, rows: list[VectorBlock], columns: list[VectorBlock]) -> None:
        self._sides = rows, columns
        self._kinds = kinds_of_products(rows[0].source.shape[1])
        self._failures, self._left_out = [0] * len(self._kinds), [0] * len(self._kinds)
        self._kept: OrderedDict[tuple[int, int], Operand] = OrderedDict()  # the last used comes last
        self._kept_bytes = 0
        self._lengths_of: dict[int, np.ndarray] = {}
        self._lock = Lock()

    @staticmethod
    def in_order(tiles: Iterable[Tile]) -> list[Tile]:
        """Return `tiles` in an order in which few operands have to be kept: some rows by all columns."""
        return sorted(tiles, key=lambda tile: (tile[0] // _ROWS_TOGETHER, tile[1], tile[0]))

    def sift(self, tile: Tile, *looks: Callable[[TileScores], Found]) -> list[Found]:
        """Return what each of `looks` finds in the coarse scores of a tile, which are made once for all.

        One that raises `TooManyOpenError` is shown finer ones, at last exact ones.
        """
        found, left = [None] * len(looks), list(range(len(looks)))
        for number in range(len(self._kinds)):
            if self._left_out[number]:
                self._left_out[number] -= 1
                continue
            scores, looking = self._coarse(self._kinds[number], tile), left
            left = []
            for place in looking:
                try:
                    found[place] = looks[place](scores)
                except TooManyOpenError:
                    left.append(place)
            self._note(number, failed=bool(left))
            if not left:
                return found
        scores = TileScores(rounded_products(*(block.vectors for block in self._blocks(tile))))
        for place in left:
            found[place] = looks[place](scores)
        return found

    def _note(self, number: int, failed: bool) -> None:
        self._failures[number] = failures = self._failures[number] + 1 if failed else 0
        if failures >= _PATIENCE:
            self._left_out[number] = _PAUSE << failures - _PATIENCE

    def pairs(self, tile: Tile, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the scores [n] of the vectors `rows` [n] and `columns` [n] of a tile."""
        (first, second), scores = self._blocks(tile), np.empty(len(rows), np.float32)
        if len(rows) > _FEW * len(first) * len(second):
            return rounded_products(first.vectors, second.vectors)[rows, columns]
        sizes = self._lengths(first)[rows] * self._lengths(second)[columns]
        for part in _parts(len(rows), first):
            vectors = first.take(rows[part]), second.take(columns[part])
            scores[part] = rounded_pairs(*vectors, sizes[part])
        return scores

    def _lengths(self, block: VectorBlock) -> np.ndarray:
        if id(block) not in self._lengths_of:
            self._lengths_of[id(block)] = lengths(block.vectors)
        return self._lengths_of[id(block)]

    def _single_pairs(self, tile: Tile, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the products [n] of the vectors `rows` [n] and `columns` [n] of a tile in float32."""
        first, second = self._blocks(tile)
        return multiply_pairs(first.source, first.rows_of(rows), second.source, second.rows_of(columns))

    def _blocks(self, tile: Tile) -> tuple[VectorBlock, VectorBlock]:
        return self._sides[0][tile[0]], self._sides[1][tile[1]]

    def _coarse(self, kind: Products, tile: Tile) -> TileScores:
        rows, columns = (self._operand(kind, block) for block in self._blocks(tile))
        limits = margins(rows, columns), margins(columns, rows)
        width = self._sides[0][0].source.shape[1]
        margin = rounding_margin(width, float(rows.length.max() * columns.length.max()))

        def settle(row: np.ndarray, column: np.ndarray, bars: np.ndarray) -> np.ndarray:
            scores = self._single_pairs(tile, row, column)
            near = np.flatnonzero(~(np.abs(scores.astype(np.float64) - bars) > margin))
            scores[near] = self.pairs(tile, row[near], column[near])
            return scores

        products = kind.multiply(rows, columns)
        return TileScores(products, rows.unit * columns.unit, limits, settle)

    def _operand(self, kind: Products, block: VectorBlock) -> Operand:
        key = id(kind), id(block)
        with self._lock:  # another thread that needs the operand waits for it
            if key not in self._kept:
                self._kept[key] = kind.operand(block.vectors)
                self._kept_bytes += self._kept[key].numbers.nbytes
                while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].numbers.nbytes
            self._kept.move_to_end(key)
            return self._kept[key]


def _outward(numbers: np.ndarray, sign: int) -> np.ndarray:
    """Round float64 numbers [n] to float32 ones below (`sign` -1) or above them (1)."""
    with np.errstate(over="ignore"):
        rounded = (numbers + sign * _SMALLEST).astype(np.float32)  # subnormal numbers may become 0
        return np.nextafter(rounded, np.float32(sign * np.inf))


def lower_bounds(scores: np.ndarray, k: int) -> np.ndarray:
    """Return numbers [Q] that are at most the k-th highest of each row of `scores` [Q,G].

    The k-th highest of the maxima of chunks is one; -infinity where there are too few. NaN counts for
    nothing.
    """
    queries, items = scores.shape
    chunks = min(4 * k, items)
    if chunks < k:
        return np.full(queries, -np.inf, scores.dtype)
    width = items // chunks
    if scores.flags.c_contiguous:
        chunked = scores[:, : chunks * width].reshape(queries, width, chunks)
    else:
        chunked = scores.T[: chunks * width].reshape(width, chunks, queries).transpose(2, 0, 1)
    maxima = np.fmax.reduce(chunked, axis=1, initial=-np.inf)
    return np.partition(maxima, chunks - k, axis=1)[:, chunks - k]


def _pieces(scores: np.ndarray) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, scores.shape[1] * scores.itemsize))
    for start in range(0, len(scores), step):
        yield slice(start, min(start + step, len(scores)))


def _parts(pairs: int, block: VectorBlock) -> Iterator[slice]:
    """Cut pairs of vectors so that a part is no larger than a piece."""
    step = max(1, _PIECE // (block.source.shape[1] * block.source.itemsize))
    for start in range(0, pairs, step):
        yield slice(start, start + step)


def _taken(items: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
    return items if vectors is None else vectors[items]
