"""Computes ranks and precisions of image-to-image retrieval from embeddings, in bounded memory.

The scores of a query with its relevant items come first, and set the bar that an irrelevant item must reach
to matter to the query (`counter`). Then all tiles are screened (`screen`): coarse products tell which few
pairs may reach a bar and where they stand among the relevant items. What they leave open is multiplied
exactly.

A query does not find itself: pairs of equal file numbers are left out.

If the queries are the gallery, scores are symmetric: a tile serves the queries of its rows and those of its
columns. Processes of a job share the blocks of queries; each of them ranks its own alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from config.machine.threads import for_each
from datasets.prefetch import prefetched
from datasets.relevance import Relevance
from engine.ranking.metrics import group_numbers
from engine.ranking.pictures.counter import ImageCounter
from engine.ranking.rounded import rounded_products
from engine.ranking.screen import Screen, Tile, TileScores
from engine.ranking.similarity import check_magnitude
from engine.ranking.tiles import TileSide, VectorBlock, cut_into_blocks
from engine.runtime import choose_threads

_KEPT_SCORES = 12 << 20  # relevant scores, and two counts for each, of the queries that are ranked together
_QUERIES, _ITEMS = 64, 1024  # relevant scores are made for so many queries and items at a time
Ahead = tuple[np.ndarray, ...]  # the arguments of `ImageCounter.add`


@dataclass(frozen=True)
class ImageRanks:
    """The ranks and precisions [C] of the C queries that have a relevant item.

    `queries` are the rows of these queries, ascending. `ranks` are the 0-based ranks of the best relevant
    items, counted up to `counter.DEEPEST`, or to R, the number of relevant items, if that is more.
    `r_precision` is the share of relevant items among the first R, and `average_precision` is that at R
    (arXiv 2003.08505, sec. 3.3); both are in [0, 1]. `favour` and `against` are the ranks under both answers
    to ties.
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
    """Rank `gallery` [G,D] for each of `query` [Q,D] by inner product; equal labels are relevant.

    Scores are those of float32 vectors, rounded once. Without a gallery, the queries are searched for each
    other. `files` are numbers, int [Q] and [G], of which equal ones are the same picture: no query finds an
    item of its own number. Without them, queries that are searched for each other have a number each, and a
    gallery holds none of the queries. `tie_rule` is a key of `engine.ranking.counter.TIE_RULES`. `progress`
    is called with the queries done and their number. `part` holds the number of this process and the number
    of processes; each process ranks some blocks of queries.
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
        self._gallery, self._gallery_group = gallery, gallery_group
        self.relevant, self.files = relevant, files
        self._block_size = block_size
        self.gallery_blocks = self._cut(gallery, np.arange(len(gallery)), gallery_group)
        self._by_group = np.argsort(gallery_group, kind="stable")

    def blocks_of_queries(self, rows: np.ndarray) -> list[VectorBlock]:
        """Return blocks of the queries in these `rows`; the places of their items are indices into `rows`."""
        return self._cut(self._query, rows, self._query_group[rows])

    def fill_relevant_scores(self, scores: np.ndarray, rows: np.ndarray, places: np.ndarray) -> None:
        """Write the scores of the queries `rows[places]` with their relevant items to rows of `scores` [n,W].

        They are in any order. What is behind the last stays as it is.
        """
        places = places[np.argsort(self._query_group[rows[places]], kind="stable")]
        groups = self._gallery_group[self._by_group]

        def fill(start: int) -> None:
            these = places[start : start + _QUERIES]
            own = rows[these]
            low, high = (np.searchsorted(groups, self._query_group[own], side) for side in ("left", "right"))
            filled = np.zeros(len(these), np.int64)
            for begin in range(low.min(), high.max(), _ITEMS):
                items = self._by_group[begin : min(begin + _ITEMS, high.max())]
                right = self._query_group[own][:, None] == self._gallery_group[items]
                right &= self.files[0][own][:, None] != self.files[1][items]
                row, column = np.nonzero(right)
                number = filled[row] + np.arange(len(row)) - np.searchsorted(row, row)
                made = rounded_products(self._query[own], self._gallery[items])
                scores[these[row], number] = made[row, column]
                filled += right.sum(axis=1)

        for_each(fill, range(0, len(places), _QUERIES))

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
    places = np.sort(np.concatenate([_places(blocks[number]) for number in own]))
    places = places[items.relevant[rows[places]] > 0]
    relevant = np.zeros(len(rows), np.int64)
    relevant[places] = items.relevant[rows[places]]
    # As wide in every process: so sums over a row come out alike.
    scores = np.full((len(rows), items.relevant[rows].max()), -np.inf, np.float32)
    items.fill_relevant_scores(scores, rows, places)
    counter = ImageCounter(scores, relevant)
    files = items.files[0][rows], items.files[1]
    _Search(blocks, items.gallery_blocks, counter, files, own, mirrored).run(show)
    return rows[places], *counter.result(places, tie_rule)


def _places(block: VectorBlock) -> np.ndarray:
    return np.concatenate([portion.places for portion in block.portions])


class _Search:
    """Shows the counter all rivals that can matter to the queries of the blocks `own`.

    `own` holds indices into `blocks`. `files` are the numbers of the queries and of the gallery. With
    `mirrored`, `blocks` are those of the gallery, and a tile is multiplied once for the queries on both its
    sides.
    """

    def __init__(
        self,
        blocks: list[VectorBlock],
        gallery_blocks: list[VectorBlock],
        counter: ImageCounter,
        files: tuple[np.ndarray, np.ndarray],
        own: range,
        mirrored: bool,
    ) -> None:
        self._blocks, self._gallery_blocks = blocks, gallery_blocks
        self._counter, self._files, self._own, self._mirrored = counter, files, own, mirrored
        self._screen = Screen(blocks, gallery_blocks)
        # Among so many items there are as many rivals as a query has relevant items.
        self._enough = counter.most_relevant + int(np.unique(files[1], return_counts=True)[1].max())
        self._started: set[int] = set()  # blocks of queries of which rivals were counted

    def run(self, show: Callable[[float], None]) -> None:
        """Go through all tiles, which threads screen; `show` is called with the share done."""
        every = ((row, column) for row in self._own_rows() for column in range(len(self._gallery_blocks)))
        tiles = Screen.in_order(tile for tile in every if self._sides(tile))
        for done, [found] in enumerate(prefetched(self._rivals, tiles, choose_threads()), start=1):
            for ahead in found:
                self._counter.add(*ahead)
            self._started.update(tiles[done - 1][side] for side in self._sides(tiles[done - 1]))
            show(done / len(tiles))

    def _own_rows(self) -> range:
        return range(len(self._blocks)) if self._mirrored else self._own

    def _sides(self, tile: Tile) -> list[int]:
        """Return the sides of a tile with queries to rank: 0 for its rows, 1 for its columns.

        A mirrored tile is multiplied only above or on the diagonal.
        """
        if not self._mirrored:
            return [0]
        if tile[0] >= tile[1]:
            return [0] if tile[0] == tile[1] and tile[0] in self._own else []
        return [side for side in (0, 1) if tile[side] in self._own]

    def _rivals(self, tile: Tile) -> list[list[Ahead]]:
        return self._screen.sift(tile, partial(self._ahead, tile))

    def _ahead(self, tile: Tile, scores: TileScores) -> list[Ahead]:
        """Return the rivals that matter to the queries of a tile.

        Raises `TooManyOpenError` if finer scores are needed.
        """
        found = []
        for rows in self._blocks[tile[0]].portions:
            for columns in self._gallery_blocks[tile[1]].portions:
                part = scores.of_items(rows.vector_of, columns.vector_of)
                with part.without(*_of_one_group(rows, columns)):
                    for side in self._sides(tile):
                        is_new = tile[side] not in self._started
                        found.append(self._rivals_ahead((rows, columns), side, part, is_new))
        return found

    def _rivals_ahead(
        self, sides: tuple[TileSide, TileSide], side: int, scores: TileScores, is_new: bool
    ) -> Ahead:
        """Return the rivals that matter to the queries on a `side`, as the counter's `add` takes them.

        Before any rivals of a block of queries are counted (`is_new`), those that lead in this tile raise
        the bars.
        """
        queries, items = sides[side].places, sides[1 - side].places
        leading = scores.kth_at_least(side, self._enough) if is_new else None
        count, bars = self._counter.open_items(queries, leading)
        query, item, low, high = scores.may_reach(side, bars)
        others = np.flatnonzero(self._files[0][queries[query]] != self._files[1][items[item]])
        query, item, low, high = (each[others] for each in (query, item, low, high))
        place = queries[query]

        def settle(which: np.ndarray, bars: np.ndarray) -> np.ndarray:
            return scores.settle(side, query[which], item[which], bars)

        return queries, count, place, *self._counter.best_behind(place, count[query], low, high, settle)


def _of_one_group(rows: TileSide, columns: TileSide) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column [n] of all pairs of one group, row by row."""
    if rows.groups.max() < columns.groups.min() or columns.groups.max() < rows.groups.min():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pairs = Relevance.of_groups(rows.groups, columns.groups)
    return pairs.images, pairs.captions
