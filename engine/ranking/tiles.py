"""Scores in tiles of two blocks of vectors: equal vectors are multiplied once and share their scores."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.similarity import ON_ONE_THREAD, Similarity
from engine.runtime import choose_threads

_KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class TileSide:
    """The images, or the captions, of one side of a tile of scores.

    They are of one block, and at most as many as a block may have vectors.
    """

    places: np.ndarray  # [n] in the caller's order
    vector_of: np.ndarray | None  # [n] which vector of the block each one has; None: one each, in order
    groups: np.ndarray  # [n] equal: relevant to each other
    folds: np.ndarray  # [n] equal: competing


ScoredPortion = tuple[TileSide, TileSide, np.ndarray]  # rows, columns and their scores [rows,columns]


@dataclass(frozen=True)
class VectorBlock:
    """Distinct vectors [V,D] that are multiplied together: the `rows` of `source`, and what has them.

    `portions`: the images, or captions, that have these vectors. `groups`, `folds`: those that occur.
    """

    source: np.ndarray
    rows: slice | np.ndarray
    portions: list[TileSide]
    groups: np.ndarray
    folds: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors, copied where they do not lie side by side."""
        return self.source[self.rows]

    def take(self, which: np.ndarray) -> np.ndarray:
        """Return some of the vectors [n,D], by their numbers in the block."""
        if isinstance(self.rows, slice):
            return self.source[self.rows][which]
        return self.source[self.rows[which]]


def cut_into_blocks(
    embeddings: np.ndarray,
    embedding_of: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    size: int,
) -> list[VectorBlock]:
    """Return blocks of up to `size` distinct vectors, those of one group side by side, few of them parted.

    Image, or caption, i has the vector `embeddings[embedding_of[i]]`, which stays where it is.
    """
    by_group = np.argsort(groups, kind="stable")
    label = content_labels(embeddings)[embedding_of][by_group]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]  # distinct vectors counted as they first appear
    leaders = by_group[np.sort(first)]  # of each distinct vector the first item
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
    """Return `rows` [n] as a slice, which copies nothing, where they follow each other."""
    return slice(rows[0], rows[-1] + 1) if (np.diff(rows) == 1).all() else rows


def _cuts(groups: np.ndarray, size: int) -> list[int]:
    """Return where blocks begin and the last one ends: before a group that would be parted, if small."""
    cuts = [0]
    while cuts[-1] + size < len(groups):
        end = cuts[-1] + size
        whole = int(np.searchsorted(groups, groups[end]))
        cuts.append(whole if whole > end - size // 2 else end)
    return [*cuts, len(groups)] if len(groups) else []


class Tiles:
    """The scores of every block of images with every block of captions."""

    def __init__(self, images: list[VectorBlock], captions: list[VectorBlock], similarity: Similarity):
        self._images, self._captions, self._similarity = images, captions, similarity
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._free_bytes = _KEPT_BYTES

    def all(self) -> list[tuple[int, int]]:
        """Return every tile."""
        return [(row, column) for row in range(len(self._images)) for column in range(len(self._captions))]

    def related(self) -> list[tuple[int, int]]:
        """Return the tiles that hold a relevant pair."""
        return [tile for tile in self.all() if np.isin(*(block.groups for block in self._pair(tile))).any()]

    def competing(self) -> list[tuple[int, int]]:
        """Return the tiles that hold a pair of one fold."""
        return [tile for tile in self.all() if np.isin(*(block.folds for block in self._pair(tile))).any()]

    def scores(self, tiles: list[tuple[int, int]], keep: bool) -> Iterator[Iterator[ScoredPortion]]:
        """Yield the scores of each of `tiles`, item by item, in portions; threads make the next ones ahead.

        keep: hold them, where there is room, until they are asked for again. They are the same numbers
        whenever they are asked for.
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
        """Return the scores [V,W] of a tile's vectors; another `similarity` has other threads alone."""
        rows, columns = self._pair(tile)
        return (similarity or self._similarity)(rows.vectors, columns.vectors)

    def portions(self, tile: tuple[int, int], scores: np.ndarray) -> Iterator[ScoredPortion]:
        """Yield the scores of a tile's items, of those of its vectors."""
        images, captions = self._pair(tile)
        for columns in captions.portions:
            part = scores if columns.vector_of is None else scores.take(columns.vector_of, axis=1)
            for rows in images.portions:
                yield rows, columns, part if rows.vector_of is None else part.take(rows.vector_of, axis=0)

    def _pair(self, tile: tuple[int, int]) -> tuple[VectorBlock, VectorBlock]:
        return self._images[tile[0]], self._captions[tile[1]]


def content_labels(vectors: np.ndarray) -> np.ndarray:
    """Return numbers [n] that are equal where the rows of `vectors` [n,D] are equal, byte by byte."""
    seen: dict[bytes, int] = {}
    rows = np.ascontiguousarray(vectors)
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), len(seen)) for row in rows])
