"""Computes ranks and precisions of image-to-image retrieval from embeddings, in bounded memory.

The idea: a query's rank is the number of irrelevant items ahead of its best relevant one, and its precisions
need only its R relevant scores and its R highest irrelevant ones, so that most irrelevant scores, those below
a threshold of the query, change nothing (`counter`). The tiles that hold relevant pairs come first and
set the thresholds. In all other tiles, cheap bounds find the few pairs that may exceed a threshold, and only
these are multiplied in float32 (`bounds`).

A query does not find itself: pairs of equal file numbers are left out, which the counter does.

If the queries are the gallery, scores are symmetric: a tile serves the queries of its rows and those of its
columns. Processes of a job share the blocks of queries. The scores of a block, and the order in which it sees
them, do not depend on the number of processes, and so neither do ranks and precisions.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.metrics import group_numbers
from engine.ranking.pictures.bounds import RUN, Bounds
from engine.ranking.pictures.counter import ImageCounter
from engine.ranking.similarity import check_magnitude, summed_products, summed_products_on_one_thread
from engine.ranking.tiles import ScoredPortion, Tiles, VectorBlock, cut_into_blocks
from engine.runtime import choose_threads

_KEPT_SCORES = 16 << 20  # relevant scores, and as many leading ones, of the queries that are ranked together


@dataclass(frozen=True)
class ImageRanks:
    """The ranks and precisions [C] of the C queries that have a relevant item.

    `queries` are the rows of these queries, ascending. `ranks` are the 0-based ranks of the best relevant
    items; a rank above `counter.DEEPEST` may be too small, but is at least `DEEPEST`. For a query with
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
        self.have_bounds = Bounds.are_worthwhile(gallery)

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
    search = _Search(blocks, items.gallery_blocks, counter, own, mirrored, items.have_bounds)
    search.run(show)
    places = np.concatenate([_places(blocks[number]) for number in own])
    places = np.sort(places[items.relevant[rows[places]] > 0])
    return rows[places], *counter.result(places)


def _places(block: VectorBlock) -> np.ndarray:
    return np.concatenate([portion.places for portion in block.portions])


class _Search:
    """Shows the counter all scores that can matter to the queries of the blocks `own`.

    `own` holds indices into `blocks`. With `mirrored`, `blocks` are those of the gallery, and a tile is
    multiplied once for the queries on both its sides.
    """

    def __init__(
        self,
        blocks: list[VectorBlock],
        gallery_blocks: list[VectorBlock],
        counter: ImageCounter,
        own: range,
        mirrored: bool,
        have_bounds: bool,
    ) -> None:
        self._blocks, self._gallery_blocks = blocks, gallery_blocks
        self._counter, self._own, self._mirrored = counter, own, mirrored
        self._tiles = Tiles(blocks, gallery_blocks, summed_products)
        self._bounds = Bounds(blocks, gallery_blocks) if have_bounds else None

    def run(self, show: Callable[[float], None]) -> None:
        """Go through all tiles, those with relevant pairs first; `show` is called with the share done."""
        needed = [tile for tile in self._tiles.all() if self._sides(tile)]
        related = sorted(set(self._tiles.related()).intersection(needed))
        rest = Bounds.in_order(set(needed).difference(related))
        # A block sees its tiles in the same runs, whatever other blocks this process ranks.
        runs = groupby(rest, lambda tile: (tile[0], tile[1] // RUN))
        steps = chain(
            chain.from_iterable(map(self._count_related, _clusters(related, self._mirrored))),
            chain.from_iterable(self._count_unrelated(list(run)) for _, run in runs),
        )
        for done, _ in enumerate(steps, start=1):
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

    def _seen_from(self, sides: Iterable[int], portions: Iterable[ScoredPortion]) -> Iterator[ScoredPortion]:
        """Yield queries, items and scores [Q,G] for each of the `sides` of a tile."""
        for rows, columns, scores in portions:
            for side in sides:
                yield (columns, rows, scores.T) if side else (rows, columns, scores)

    def _count_related(self, cluster: list[tuple[int, int]]) -> Iterator[None]:
        """Count the tiles of a cluster, which hold all relevant pairs of its queries; yield after each."""
        for tile, scored in zip(cluster, self._tiles.scores(cluster, keep=True), strict=True):
            for seen in self._seen_from(self._sides(tile), scored):
                self._counter.add_relevant(*seen)
        for number in {tile[side] for tile in cluster for side in self._sides(tile)}:
            self._counter.close_relevant(_places(self._blocks[number]))
        for tile, scored in zip(cluster, self._tiles.scores(cluster, keep=False), strict=True):
            for seen in self._seen_from(self._sides(tile), scored):
                self._counter.add_rivals(*seen, related=True)
            yield

    def _count_unrelated(self, run: list[tuple[int, int]]) -> Iterator[None]:
        """Count a run of tiles without relevant pairs, which threads prefetch; yield after each."""
        bounds = self._bounds
        numbers = {tile[side] for tile in run for side in self._sides(tile)}
        promising = {number for number in numbers if bounds and bounds.are_promising(number)}
        bounded = {tile for tile in run if any(tile[side] in promising for side in self._sides(tile))}

        def multiply(tile: tuple[int, int]) -> np.ndarray | None:
            if tile in bounded:
                return bounds.products(tile)
            return self._tiles.multiply(tile, summed_products_on_one_thread)

        for tile, made in zip(run, prefetched(multiply, run, choose_threads()), strict=True):
            left = self._sides(tile)
            if bounds:
                products = made if tile in bounded else None
                left = [side for side in left if not self._add_pairs(tile, side, products, promising)]
            if left:
                scores = self._tiles.multiply(tile) if tile in bounded else made
                for seen in self._seen_from(left, self._tiles.portions(tile, scores)):
                    self._counter.add_rivals(*seen, related=False)
            yield

    def _add_pairs(
        self, tile: tuple[int, int], side: int, products: np.ndarray | None, promising: set[int]
    ) -> bool:
        """Show the counter the pairs of one side that can matter; return False if bounds do not find them."""
        if tile[side] not in promising:
            products = None
        pairs = self._bounds.pairs(tile, side, products, self._counter.thresholds)
        if pairs is None:
            return False
        row, column, scores = pairs
        places = _places(self._blocks[tile[side]])
        items = _places(self._block_of_items(tile, side))
        above = np.flatnonzero(scores > self._counter.thresholds(places)[row])
        self._counter.add_pairs(places, row[above], items[column[above]], scores[above])
        return True

    def _block_of_items(self, tile: tuple[int, int], side: int) -> VectorBlock:
        """Return the block that the queries on a `side` of a tile search."""
        return self._blocks[tile[0]] if side else self._gallery_blocks[tile[1]]


def _clusters(related: list[tuple[int, int]], mirrored: bool) -> list[list[tuple[int, int]]]:
    """Group the tiles `related`, which hold relevant pairs, so that all tiles of a query are in one list."""
    clusters: list[list[tuple[int, int]]] = []
    reach = -1  # the last block of queries in the list
    for tile in related:
        if tile[0] > reach:
            clusters.append([])
        clusters[-1].append(tile)
        reach = max(reach, tile[1] if mirrored else tile[0])
    return clusters
