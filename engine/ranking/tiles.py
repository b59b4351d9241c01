"""Scores in tiles of blocks of vectors: equal vectors are multiplied once and share their scores."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.similarity import Similarity

_KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class Items:
    """Images or captions of one block, at most as many as a block has vectors."""

    places: np.ndarray  # [n] in the caller's order
    vectors: np.ndarray | None  # [n] which vector of the block each one has; None: one each, in order
    groups: np.ndarray  # [n] equal: relevant to each other
    folds: np.ndarray  # [n] equal: competing


@dataclass(frozen=True)
class Block:
    """Distinct vectors [V,D] of one side, the `rows` of `source`, and the items that have them."""

    source: np.ndarray
    rows: slice | np.ndarray
    portions: list[Items]
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


def blocks_of(
    embeddings: np.ndarray,
    embedding_of: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    size: int,
    copies: bool = True,
) -> list[Block]:
    """Return blocks of up to `size` distinct vectors, those of one group side by side, few of them parted.

    copies: hold a block's vectors side by side, and not only where they are in `embeddings`.
    """
    by_group = np.argsort(groups, kind="stable")
    label = content_labels(embeddings)[embedding_of][by_group]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]  # distinct vectors counted as they first appear
    leaders = by_group[np.sort(first)]  # of each distinct vector the first item
    rows = embedding_of[leaders]
    in_order = np.array_equal(rows, np.arange(len(embeddings)))
    by_vector = np.argsort(number, kind="stable")
    number, places = number[by_vector], by_group[by_vector]
    blocks = []
    for start, stop in pairwise(_cuts(groups[leaders], size)):
        low, high = np.searchsorted(number, (start, stop))
        part = slice(start, stop)
        source, chosen_rows, members = embeddings, part if in_order else rows[part], places[low:high]
        if copies:
            source, chosen_rows = embeddings[chosen_rows], slice(None)
        portions = []
        for begin in range(low, high, size):
            end = min(begin + size, high)
            chosen = places[begin:end]
            which = None if len(members) == stop - start else number[begin:end] - start
            portions.append(Items(chosen, which, groups[chosen], folds[chosen]))
        ends = np.unique(groups[members]), np.unique(folds[members])
        blocks.append(Block(source, chosen_rows, portions, *ends))
    return blocks


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

    def __init__(self, images: list[Block], captions: list[Block], similarity: Similarity):
        self._images, self._captions, self._similarity = images, captions, similarity
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._free_bytes = _KEPT_BYTES

    def all(self) -> list[tuple[int, int]]:
        """Return every tile."""
        return [(row, column) for row in range(len(self._images)) for column in range(len(self._captions))]

    def related(self) -> list[tuple[int, int]]:
        """Return the tiles that hold a relevant pair."""
        return [
            tile for tile in self.all() if np.isin(*(block.groups for block in self._blocks_of(tile))).any()
        ]

    def competing(self) -> list[tuple[int, int]]:
        """Return the tiles that hold a pair of one fold."""
        return [
            tile for tile in self.all() if np.isin(*(block.folds for block in self._blocks_of(tile))).any()
        ]

    def scores(self, tile: tuple[int, int], keep: bool) -> Iterator[tuple[Items, Items, np.ndarray]]:
        """Return a tile's scores, item by item, in portions; the same numbers whenever it is asked for."""
        scores = self._kept.pop(tile, None)
        if scores is None:
            images, captions = self._blocks_of(tile)
            scores = self._similarity(images.vectors, captions.vectors)
        else:
            self._free_bytes += scores.nbytes
        if keep and scores.nbytes <= self._free_bytes:
            self._kept[tile] = scores
            self._free_bytes -= scores.nbytes
        return self._portions(tile, scores)

    def scores_ahead(
        self, tiles: list[tuple[int, int]], similarity: Similarity, threads: int
    ) -> Iterator[Iterator[tuple[Items, Items, np.ndarray]]]:
        """Yield for each of `tiles` what `scores` returns, whose next ones threads make by `similarity`."""

        def make(tile: tuple[int, int]) -> np.ndarray:
            images, captions = self._blocks_of(tile)
            return similarity(images.vectors, captions.vectors)

        for tile, scores in zip(tiles, prefetched(make, tiles, threads), strict=True):
            yield self._portions(tile, scores)

    def _portions(
        self, tile: tuple[int, int], scores: np.ndarray
    ) -> Iterator[tuple[Items, Items, np.ndarray]]:
        images, captions = self._blocks_of(tile)
        for columns in captions.portions:
            part = scores if columns.vectors is None else scores.take(columns.vectors, axis=1)
            for rows in images.portions:
                yield rows, columns, part if rows.vectors is None else part.take(rows.vectors, axis=0)

    def _blocks_of(self, tile: tuple[int, int]) -> tuple[Block, Block]:
        return self._images[tile[0]], self._captions[tile[1]]


def content_labels(vectors: np.ndarray) -> np.ndarray:
    """Return numbers [n] that are equal where the rows of `vectors` [n,D] are equal, byte by byte."""
    seen: dict[bytes, int] = {}
    rows = np.ascontiguousarray(vectors)
    return np.array([seen.setdefault(hashlib.sha256(row).digest(), len(seen)) for row in rows])
