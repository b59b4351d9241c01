"""Scores in tiles, each of two blocks of distinct vectors: items with equal vectors share their scores."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.similarity import ON_ONE_THREAD, Similarity
from engine.runtime import choose_threads

_KEPT_BYTES = 128 << 20
_PLACES = 8  # numbers of a row by which most rows are told apart


@dataclass(frozen=True)
class TileSide:
    """The items (images, or captions) on one side of a tile of scores.

    They are a portion of a block's items, at most as many as a block may have vectors.
    """

    places: np.ndarray  # [n] places of the items in the caller's arrays
    vector_of: np.ndarray | None  # [n] index of each item's vector in the block; None: item i has vector i
    groups: np.ndarray  # [n] items of equal groups are relevant to each other
    folds: np.ndarray  # [n] items of equal folds compete

    def vectors_of(self, items: np.ndarray) -> np.ndarray:
        """Return the index in the block of the vector of each of `items` [n], indices of `places`."""
        return items if self.vector_of is None else self.vector_of[items]


ScoredPortion = tuple[TileSide, TileSide, np.ndarray]  # items of rows and columns, and their scores


@dataclass(frozen=True)
class VectorBlock:
    """Distinct vectors [V,D] that are multiplied together, the `rows` of `source`, and their items.

    `portions` are the items that have these vectors. `groups` and `folds` are the distinct ones of the items.
    """

    source: np.ndarray
    rows: slice | np.ndarray
    portions: list[TileSide]
    groups: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors [V,D], copied if their rows are not contiguous."""
        return self.source[self.rows]

    def rows_of(self, which: np.ndarray) -> np.ndarray:
        """Return the rows [n] of `source` that hold the vectors with the indices `which` [n] in the block."""
        return self.rows.start + which if isinstance(self.rows, slice) else self.rows[which]

    def take(self, which: np.ndarray) -> np.ndarray:
        """Return the vectors [n,D] with the indices `which` in the block."""
        return self.source[self.rows_of(which)]


def cut_into_blocks(
    embeddings: np.ndarray,
    embedding_of: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    size: int,
) -> list[VectorBlock]:
    """Cut the items into blocks of up to `size` distinct vectors; a small group stays in one block.

    Item i has the vector `embeddings[embedding_of[i]]`, and belongs to `groups[i]` and `folds[i]`. Blocks
    refer to `embeddings` and copy nothing.
    """
    by_group = np.argsort(groups, kind="stable")
    label = content_labels(embeddings)[embedding_of][by_group]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]  # distinct vectors are numbered in order of appearance
    leaders = by_group[np.sort(first)]  # the first item of each distinct vector
    rows = embedding_of[leaders]
    by_vector = np.argsort(number, kind="stable")
    number, places = number[by_vector], by_group[by_vector]
    blocks = []
    for start, stop in pairwise(_cuts(groups[leaders], size)):
        low, high = np.searchsorted(number, (start, stop))
        members = places[low:high]
        portions = []
        for begin in range(low, high, size):
            end = min(begin + size, high)
            chosen = places[begin:end]
            which = None if len(members) == stop - start else number[begin:end] - start
            portions.append(TileSide(chosen, which, groups[chosen], folds[chosen]))
        ends = np.unique(groups[members]), np.unique(folds[members])
        blocks.append(VectorBlock(embeddings, _as_slice(rows[start:stop]), portions, *ends))
    return blocks


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Return `rows` [n] as a slice, which copies nothing, if they are consecutive."""
    return slice(rows[0], rows[-1] + 1) if (np.diff(rows) == 1).all() else rows


def _cuts(groups: np.ndarray, size: int) -> list[int]:
    """Return where blocks begin, and the end of the last one.

    A block ends before a group that it would split, if it is then at least half full.
    """
    cuts = [0]
    while cuts[-1] + size < len(groups):
        end = cuts[-1] + size
        whole = int(np.searchsorted(groups, groups[end]))
        cuts.append(whole if whole > end - size // 2 else end)
    return [*cuts, len(groups)] if len(groups) else []


class Tiles:
    """The scores of blocks of images with blocks of captions; a tile is (image block, caption block).

    Up to 128 MB of scores that are asked for twice are made once.
    """

    def __init__(self, images: list[VectorBlock], captions: list[VectorBlock], similarity: Similarity):
        self._images, self._captions, self._similarity = images, captions, similarity
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._free_bytes = _KEPT_BYTES

    def all(self) -> list[tuple[int, int]]:
        """Return all tiles, row by row."""
        return [(row, column) for row in range(len(self._images)) for column in range(len(self._captions))]

    def holding(self, images: np.ndarray, captions: np.ndarray) -> list[tuple[int, int]]:
        """Return the tiles that hold the pairs of `images` [P] and `captions` [P], places of items."""
        row, column = _block_of(self._images)[images], _block_of(self._captions)[captions]
        keys = np.unique(row * len(self._captions) + column)
        return [divmod(int(key), len(self._captions)) for key in keys]

    def competing(self) -> list[tuple[int, int]]:
        """Return the tiles that hold a pair within a fold."""
        return [tile for tile in self.all() if np.isin(*(block.folds for block in self._pair(tile))).any()]

    def scores(self, tiles: list[tuple[int, int]], keep: bool) -> Iterator[Iterator[ScoredPortion]]:
        """Yield the scores of the items of each of `tiles`, in portions; threads prefetch the next tiles.

        With `keep`, the scores stay in memory, as far as there is room, until the next request for them.
        Every request for a tile gets the same numbers.
        """
        threads = choose_threads()
        on_one_thread = ON_ONE_THREAD.get(self._similarity) if len(tiles) > threads else None

        def make(tile: tuple[int, int]) -> tuple[np.ndarray, bool]:
            kept = self._kept.pop(tile, None)
            return (self.multiply(tile, on_one_thread), False) if kept is None else (kept, True)

        made = prefetched(make, tiles, threads if on_one_thread else 0)
        for tile, (scores, was_kept) in zip(tiles, made, strict=True):
            self._free_bytes += scores.nbytes if was_kept else 0
            if keep and scores.nbytes <= self._free_bytes:
                self._kept[tile] = scores
                self._free_bytes -= scores.nbytes
            yield self.portions(tile, scores)

    def multiply(self, tile: tuple[int, int], similarity: Similarity | None = None) -> np.ndarray:
        """Return the scores [V,W] of a tile's vectors.

        `similarity` may be a variant that returns the same numbers on the calling thread alone.
        """
        rows, columns = self._pair(tile)
        return (similarity or self._similarity)(rows.vectors, columns.vectors)

    def sides(self, tile: tuple[int, int]) -> list[tuple[TileSide, TileSide]]:
        """Return the items of rows and columns of each portion of a tile."""
        images, captions = self._pair(tile)
        return [(rows, columns) for columns in captions.portions for rows in images.portions]

    def portions(self, tile: tuple[int, int], scores: np.ndarray) -> Iterator[ScoredPortion]:
        """Yield the scores of a tile's items, which are taken from the `scores` [V,W] of its vectors."""
        images, captions = self._pair(tile)
        for columns in captions.portions:
            part = scores if columns.vector_of is None else scores.take(columns.vector_of, axis=1)
            for rows in images.portions:
                yield rows, columns, part if rows.vector_of is None else part.take(rows.vector_of, axis=0)

    def _pair(self, tile: tuple[int, int]) -> tuple[VectorBlock, VectorBlock]:
        return self._images[tile[0]], self._captions[tile[1]]


def _block_of(blocks: list[VectorBlock]) -> np.ndarray:
    """Return the number of the block that holds each item."""
    numbers = np.concatenate(
        [
            np.full(len(portion.places), number)
            for number, block in enumerate(blocks)
            for portion in block.portions
        ]
    )
    places = np.concatenate([portion.places for block in blocks for portion in block.portions])
    found = np.empty(len(places), np.int64)
    found[places] = numbers
    return found


def content_labels(vectors: np.ndarray) -> np.ndarray:
    """Return labels [n] that are equal if and only if rows of `vectors` [n,D] are equal, byte by byte.

    They are numbers from 0 on, in order of appearance. Rows that differ in a few places are not read further.
    """
    rows = np.ascontiguousarray(vectors)
    some = rows[:, np.linspace(0, rows.shape[1] - 1, _PLACES).astype(int)]
    keys = [hash(row) for row in map(bytes, some)]
    _, of_key, counts = np.unique(keys, return_inverse=True, return_counts=True)
    first = np.arange(len(rows))  # the first row that is equal to each
    seen: dict[bytes, int] = {}
    for row in np.flatnonzero(counts[of_key] > 1):
        first[row] = seen.setdefault(hashlib.sha256(rows[row]).digest(), row)
    return np.unique(first, return_inverse=True)[1]
