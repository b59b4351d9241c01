"""Computes ranks and precisions of image-to-image retrieval from embeddings, in bounded memory.

The idea: a query's rank is the number of irrelevant items ahead of its best relevant one, and its precisions
need only its R relevant scores and its R highest irrelevant ones, so that most irrelevant scores, those below
a threshold of the query, change nothing (`image_counter`). The relevant pairs come first and set the
thresholds. Then coarse products find the few pairs of all tiles that may exceed a threshold, and only these
are multiplied exactly (`screen`).

A query does not find itself: pairs of equal file numbers are left out, which the counter does.

If the queries are the gallery, scores are symmetric: a tile serves the queries of its rows and those of its
columns. Processes of a job share the blocks of queries. The scores of a block, and the order in which it sees
them, do not depend on the number of processes, and so neither do ranks and precisions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.image_counter import ImageCounter
from engine.ranking.metrics import group_numbers
from engine.ranking.screen import Screen, TileScores
from engine.ranking.similarity import check_magnitude, inner_products
from engine.ranking.tiles import Tiles, TileSide, VectorBlock, cut_into_blocks
from engine.runtime import choose_threads

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # places of queries and of gallery items, and scores, [n]

_KEPT_SCORES = 16 << 20  # relevant scores, and as many leading ones, of the queries that are ranked together
_MOST_SOUGHT = 64  # leading rivals of a query in a tile
_NO_PAIRS = np.empty((2, 0), np.int64)


@dataclass(frozen=True)
class ImageRanks:
    """The ranks and precisions [C] of the C queries that have a relevant item.

    `queries` are the rows of these queries, ascending. `ranks` are the 0-based ranks of the best relevant
    items; a rank above `image_counter.DEEPEST` may be too small, but is at least `DEEPEST`. For a query with
    R relevant items, `r_precision` is the share of relevant items among the first R, and `average_precision`
    is that at R (arXiv 2003.08505, sec. 3.3); both are in [0, 1]. `favour` and `against` are the ranks under
    both answers to ties.
    """

    queries: np.ndarray
    ranks: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray
    favour: np.ndarray
    against: np.ndarray


def image_ranks(
    query: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    tie_rule: str = "against",
    block_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] = (0, 1),
    files: tuple[np.ndarray, np.ndarray] | None = None,
) -> ImageRanks:
    """Rank `gallery` [G,D] for each of `query` [Q,D] by inner product in float32; equal labels are relevant.

    Without a gallery, the queries are searched for each other. `files` are numbers, int [Q] and [G], of which
    equal ones are the same picture: no query finds an item of its own number. Without them, queries that are
    searched for each other have a number each, and a gallery holds none of the queries. `tie_rule` is a key
    of `engine.ranking.counter.TIE_RULES`. `progress` is called with the queries done and their number. `part`
    holds the number of this process and the number of processes; each process ranks some blocks of queries.
    Raises ValueError for labels that do not fit, an embedding that is not finite, and if no query has a
    relevant item.
    """
    own = gallery is None
    query = np.asarray(query, np.float32)
    if own:
        gallery, gallery_labels = query, query_labels
    gallery = np.asarray(gallery, np.float32)
    for what, embeddings, labels in (("query", query, query_labels), ("gallery", gallery, gallery_labels)):
        if len(embeddings) != len(labels):
            raise ValueError(
                f"{what}: expected a label an embedding, got {len(labels)} for {len(embeddings)}"
            )
        check_magnitude(what, embeddings)
    query_group, gallery_group = group_numbers(query_labels, gallery_labels)
    if files is None:
        files = np.arange(len(query)), np.arange(len(gallery)) + (0 if own else len(query))
    relevant = relevant_counts(query_group, gallery_group, *files)
    counted = np.flatnonzero(relevant > 0)
    if not len(counted):
        raise ValueError("expected a query with a relevant item in the gallery, got none")
    items = _Items(query, query_group, gallery, gallery_group, relevant, files, block_size)
    chunks = _chunks(relevant, counted)
    found, done = [], 0
    for chunk in chunks:

        def show(share: float, done: int = done, queries: int = len(chunk)) -> None:
            if progress:
                progress(done + round(share * queries), len(counted))

        found.append(_rank_chunk(items, chunk, own and len(chunks) == 1, tie_rule, part, show))
        done += len(chunk)
    queries, *columns = (np.concatenate(values) for values in zip(*found, strict=True))
    order = np.argsort(queries, kind="stable")
    return ImageRanks(queries[order], *(values[order] for values in columns))


def relevant_counts(
    query_groups: np.ndarray, gallery_groups: np.ndarray, query_files: np.ndarray, gallery_files: np.ndarray
) -> np.ndarray:
    """Return how many of the gallery are relevant to each query, itself left out: int64 [Q].

    Equal `groups` are relevant, and equal `files` are the same picture. All are numbers from 0 on, [Q] or
    [G].
    """
    groups = max(query_groups.max(), gallery_groups.max()) + 1
    of_group = np.bincount(gallery_groups, minlength=groups)[query_groups]
    known, counts = np.unique(gallery_files.astype(np.int64) * groups + gallery_groups, return_counts=True)
    own = query_files.astype(np.int64) * groups + query_groups
    place = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return of_group - np.where(known[place] == own, counts[place], 0)


def _chunks(relevant: np.ndarray, counted: np.ndarray) -> list[np.ndarray]:
    """Cut the queries `counted` into chunks whose relevant scores fit into memory, small classes first."""
    by_size = counted[np.argsort(relevant[counted], kind="stable")]
    chunks, start = [], 0
    while start < len(by_size):
        sizes = relevant[by_size[start:]] * np.arange(1, len(by_size) - start + 1)
        end = start + max(1, int(np.searchsorted(sizes, _KEPT_SCORES, side="right")))
        chunks.append(by_size[start:end])
        start = end
    return chunks


class _Items:
    """The queries, and the gallery in blocks; `relevant` [Q] is each query's number of relevant items."""

    def __init__(
        self,
        query: np.ndarray,
        query_group: np.ndarray,
        gallery: np.ndarray,
        gallery_group: np.ndarray,
        relevant: np.ndarray,
        files: tuple[np.ndarray, np.ndarray],
        block_size: int,
    ) -> None:
        self._query, self._query_group = query, query_group
        self.relevant, self.files = relevant, files
        self._block_size = block_size
        self.gallery_blocks = self._cut(gallery, np.arange(len(gallery)), gallery_group)

    def blocks_of_queries(self, rows: np.ndarray) -> list[VectorBlock]:
        """Return blocks of the queries in these `rows`; the places of their items are indices into `rows`."""
        return self._cut(self._query, rows, self._query_group[rows])

    def _cut(self, embeddings: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> list[VectorBlock]:
        return cut_into_blocks(embeddings, rows, groups, np.zeros(len(rows), np.int8), self._block_size)


def _rank_chunk(
    items: _Items,
    chunk: np.ndarray,
    mirrored: bool,
    tie_rule: str,
    part: tuple[int, int],
    show: Callable[[float], None],
) -> tuple[np.ndarray, ...]:
    """Return the columns of `ImageRanks` for the queries in `chunk` that this process ranks.

    `mirrored` tells that queries and gallery are the same items, of which `chunk` holds all with a relevant
    item. `show` is called with the share of the work that is done.
    """
    rows = np.arange(len(items.relevant)) if mirrored else chunk
    blocks = items.gallery_blocks if mirrored else items.blocks_of_queries(rows)
    own = range(part[0], len(blocks), part[1])
    if not own:
        return rows[:0], rows[:0], *np.empty((2, 0)), rows[:0], rows[:0]
    counter = ImageCounter(items.files[0][rows], items.files[1], items.relevant[rows], tie_rule)
    _Search(blocks, items.gallery_blocks, counter, own, mirrored).run(show)
    places = np.concatenate([_places(blocks[number]) for number in own])
    places = np.sort(places[items.relevant[rows[places]] > 0])
    return rows[places], *counter.result(places)


def _places(block: VectorBlock) -> np.ndarray:
    return np.concatenate([portion.places for portion in block.portions])


class _Search:
    """Shows the counter all scores that can matter to the queries of the blocks `own`.

    `own` holds indices into `blocks`. With `mirrored`, `blocks` are those of the gallery, and a tile is
    multiplied once for the queries on both its sides. Threads share the tiles.
    """

    def __init__(
        self,
        blocks: list[VectorBlock],
        gallery_blocks: list[VectorBlock],
        counter: ImageCounter,
        own: range,
        mirrored: bool,
    ) -> None:
        self._blocks, self._counter, self._own, self._mirrored = blocks, counter, own, mirrored
        self._tiles = Tiles(blocks, gallery_blocks, inner_products)
        self._screen = Screen(blocks, gallery_blocks)
        self._related = set(self._tiles.related())

    def run(self, show: Callable[[float], None]) -> None:
        """Go through the tiles with relevant pairs, then through all; `show` is told the share done."""
        needed = Screen.in_order(tile for tile in self._tiles.all() if self._sides(tile))
        related = [tile for tile in needed if tile in self._related]
        for found in prefetched(self._relevant, related, choose_threads()):
            for pairs in found:
                self._counter.add_relevant(*pairs)
        for number in self._own:
            self._counter.close_relevant(_places(self._blocks[number]))
        # Thresholds start low. The tiles with relevant pairs, one or two of each block, raise all of them.
        needed.sort(key=lambda tile: tile not in self._related)
        # A block sees its tiles in the same order, whatever other blocks this process ranks.
        for done, found in enumerate(prefetched(self._rivals, needed, choose_threads()), start=1):
            for pairs in found:
                self._counter.add_rivals(*pairs)
            show(done / len(needed))

    def _sides(self, tile: tuple[int, int]) -> list[int]:
        """Return the sides of a tile with queries to rank: 0 for its rows, 1 for its columns.

        A mirrored tile is multiplied only above or on the diagonal.
        """
        if not self._mirrored:
            return [0] if tile[0] in self._own else []
        if tile[0] >= tile[1]:
            return [0] if tile[0] == tile[1] and tile[0] in self._own else []
        return [side for side in (0, 1) if tile[side] in self._own]

    def _relevant(self, tile: tuple[int, int]) -> list[Pairs]:
        """Return the relevant pairs of a tile as seen from each side."""
        found = []
        for sides in self._tiles.sides(tile):
            pairs = _same_group(*sides)
            vectors = [side.vectors_of(which) for side, which in zip(sides, pairs, strict=True)]
            scores = self._screen.pairs(tile, *vectors)
            places = [side.places[which] for side, which in zip(sides, pairs, strict=True)]
            found += [(places[side], places[1 - side], scores) for side in self._sides(tile)]
        return found

    def _rivals(self, tile: tuple[int, int]) -> list[Pairs]:
        """Return the irrelevant pairs of a tile that exceed a threshold, as seen from each side.

        The thresholds are those of now; they only rise.
        """
        return self._screen.sift(tile, lambda scores: self._exceeding(tile, scores))

    def _exceeding(self, tile: tuple[int, int], scores: TileScores) -> list[Pairs]:
        found = []
        for sides in self._tiles.sides(tile):
            part = scores.of_items(sides[0].vector_of, sides[1].vector_of)
            left_out = self._not_rivals(*sides) if tile in self._related else _NO_PAIRS
            with part.without(*left_out):
                for side in self._sides(tile):
                    queries, items = sides[side], sides[1 - side]
                    passed = self._passed(part, side, queries) if tile in self._related else -np.inf
                    *pairs, values = part.exceeding(side, self._counter.thresholds(queries.places, passed))
                    places = queries.places[pairs[side]]
                    order = np.argsort(places, kind="stable")
                    found.append((places[order], items.places[pairs[1 - side]][order], values[order]))
        return found

    def _not_rivals(self, queries: TileSide, items: TileSide) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column [n] of the pairs that are relevant or one picture."""
        rivals = self._counter.others(queries.places, items.places)
        rivals[_same_group(queries, items)] = False
        return np.nonzero(~rivals)

    def _passed(self, scores: TileScores, side: int, queries: TileSide) -> np.ndarray | float:
        """Return numbers [Q] that enough rivals of a tile exceed, or -infinity if these are too many to find.

        They spare the first tiles, when thresholds are low, many pairs.
        """
        count = self._counter.most_relevant(queries.places)
        return scores.passed(side, count) if 0 < count <= _MOST_SOUGHT else -np.inf


def _same_group(queries: TileSide, items: TileSide) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column [n] of all pairs of a query and an item of its group, row by row."""
    order = np.argsort(items.groups, kind="stable")
    low, high = (np.searchsorted(items.groups[order], queries.groups, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(low)), high - low)
    first = np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
    return row, order[first + np.arange(len(row))]
