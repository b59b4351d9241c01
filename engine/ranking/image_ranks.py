"""Ranks and precisions of image-to-image retrieval from embeddings, in bounded memory and without a sort.

The first relevant item's rank is the number of irrelevant items ahead of it, which is counted tile by tile
(see `engine.ranking.ranks`). Where the queries are the gallery, scores are symmetric: a tile serves its rows
and its columns. Precision at R also needs each query's R highest irrelevant scores. They are kept up to date
tile by tile; after the first tiles few scores are high enough to change them.

What a tile holds need not be known exactly where it cannot matter (see `engine.ranking.score_bounds`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datasets.prefetch import prefetched
from engine.ranking.metrics import average_counts, comparisons_of, group_numbers
from engine.ranking.score_bounds import Bounds
from engine.ranking.similarity import check_magnitude, inner_products, inner_products_on_one_thread
from engine.ranking.tiles import Block, Items, Tiles, blocks_of
from engine.runtime import choose_threads

DEEPEST = 1000  # ranks beyond are known to be beyond
_RUN = 32  # tiles in a row that threads multiply ahead
_KEPT_SCORES = 16 << 20  # of relevant and of leading items, for as many queries as are ranked together


@dataclass(frozen=True)
class ImageRanks:
    """How well each query with a relevant item found them; all arrays are [C], for C such queries.

    `queries`: their rows, rising. `ranks`: the best relevant item's, 0-based; beyond `DEEPEST` it may be
    smaller than the true one, but not below `DEEPEST`. `r_precision`: the share of
    relevant items among the first R, of a query with R relevant items. `average_precision`: that at R
    (arXiv 2003.08505, sec. 3.3). Shares are in [0, 1].
    """

    queries: np.ndarray
    ranks: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray


def image_ranks(
    query: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    tie_rule: str = "against",
    block_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] = (0, 1),
) -> ImageRanks:
    """Rank `gallery` [G,D] for each of `query` [Q,D] by inner product in float32; equal labels are relevant.

    Without a gallery the queries are each other's, and none finds itself. Equal scores: `tie_rule`, see
    `engine.ranking.metrics.ranks`. `progress` is called with the queries done and their number. `part`:
    number and count of the equal parts of the queries, of which one is ranked. Raises ValueError for labels
    that do not fit, an embedding that is not finite, and where no query has a relevant item.
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
    relevant = np.bincount(gallery_group, minlength=query_group.max() + 1)[query_group] - own  # [Q]
    counted = np.flatnonzero(relevant > 0)
    if not len(counted):
        raise ValueError("expected a query with a relevant item in the gallery, got none")
    counted = np.array_split(counted, part[1])[part[0]]
    if not len(counted):
        return ImageRanks(counted, *np.empty((3, 0)))
    ranking = _Ranking(gallery, gallery_group, own, tie_rule, block_size)
    chunks = _chunks(relevant, counted)
    mirrored = len(chunks) == 1 and own and part[1] == 1
    found, done = [], 0
    for chunk in chunks:

        def show(share: float, done: int = done, queries: int = len(chunk)) -> None:
            if progress:
                progress(done + round(share * queries), len(counted))

        found.append(ranking.of(query, query_group, chunk, relevant, mirrored, show))
        done += len(chunk)
    order = np.argsort(np.concatenate(chunks), kind="stable")
    return ImageRanks(counted, *(np.concatenate(values)[order] for values in zip(*found, strict=True)))


def _chunks(relevant: np.ndarray, counted: np.ndarray) -> list[np.ndarray]:
    """Cut the `counted` queries into lists whose relevant scores fit into memory, small classes first."""
    by_size = counted[np.argsort(relevant[counted], kind="stable")]
    chunks, start = [], 0
    while start < len(by_size):
        sizes = relevant[by_size[start:]] * np.arange(1, len(by_size) - start + 1)
        end = start + max(1, int(np.searchsorted(sizes, _KEPT_SCORES, side="right")))
        chunks.append(by_size[start:end])
        start = end
    return chunks


class _Ranking:
    """A gallery to rank, cut into blocks once."""

    def __init__(
        self, gallery: np.ndarray, groups: np.ndarray, own: bool, tie_rule: str, block_size: int
    ) -> None:
        self._own = own
        self._tie_rule = tie_rule
        self._block_size = block_size
        self._blocks = self._cut(gallery, np.arange(len(gallery)), groups)
        self._has_bounds = Bounds.are_worthwhile(gallery)

    def of(
        self,
        query: np.ndarray,
        groups: np.ndarray,
        chosen: np.ndarray,
        relevant: np.ndarray,
        mirrored: bool,
        show: Callable[[float], None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rank, average precision and R-precision of the `chosen` queries.

        `mirrored`: they are all of the gallery that has anything relevant. `show` is told the share done.
        """
        rows = np.arange(len(query)) if mirrored else chosen
        blocks = self._blocks if mirrored else self._cut(query, rows, groups[rows])
        found = _Found(rows if self._own else None, relevant[rows], self._tie_rule)
        tiles = Tiles(blocks, self._blocks, inner_products)
        bounds = Bounds(blocks, self._blocks) if self._has_bounds else None
        needed = [tile for tile in tiles.all() if not mirrored or tile[0] <= tile[1]]
        related = sorted(set(tiles.related()) & set(needed))
        done = 0
        for cluster in _clusters(related, mirrored):
            for tile in cluster:
                for side, others, scores in _sides(tile, tiles.scores(tile, keep=True), mirrored):
                    found.add_relevant(side, others, scores)
            for number in {number for tile in cluster for number in tile[: 1 + mirrored]}:
                found.close_relevant(np.concatenate([part.places for part in blocks[number].portions]))
            for tile in cluster:
                for side, others, scores in _sides(tile, tiles.scores(tile, keep=False), mirrored):
                    found.add_rivals(side, others, scores, related=True)
                done += 1
                show(done / len(needed))
        rest = sorted(set(needed) - set(related))
        for run in (rest[start : start + _RUN] for start in range(0, len(rest), _RUN)):
            if bounds is None or bounds.in_vain():
                _add_all(run, tiles, found, mirrored)
            else:
                _add_what_matters(run, tiles, bounds, found, mirrored)
            done += len(run)
            show(done / len(needed))
        return found.result(np.searchsorted(rows, chosen) if mirrored else np.arange(len(rows)))

    def _cut(self, embeddings: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> list[Block]:
        folds = np.zeros(len(rows), np.int8)
        return blocks_of(embeddings, rows, groups, folds, self._block_size, copies=False)


def _add_all(run: list[tuple[int, int]], tiles: Tiles, found: "_Found", mirrored: bool) -> None:
    """Look at all scores of some tiles without relevant pairs."""
    parts = tiles.scores_ahead(run, inner_products_on_one_thread, choose_threads())
    for tile, of_tile in zip(run, parts, strict=True):
        _add_tile(tile, of_tile, found, mirrored)


def _add_what_matters(
    run: list[tuple[int, int]], tiles: Tiles, bounds: Bounds, found: "_Found", mirrored: bool
) -> None:
    """Look at those scores that can matter, by bounds that threads make ahead."""
    for tile, products in zip(run, prefetched(bounds.products, run, choose_threads()), strict=True):
        pairs = bounds.pairs(tile, products, found.bars, mirrored)
        if pairs is None:
            _add_tile(tile, tiles.scores(tile, keep=False), found, mirrored)
            continue
        row, column, scores = pairs
        for side, number in zip(bounds.items(tile)[: 1 + mirrored], (row, column), strict=False):
            above = np.flatnonzero(scores > found.bars(side.places)[number])
            above = above[np.argsort(number[above], kind="stable")]
            found.add_pairs(side.places, number[above], scores[above])


def _add_tile(
    tile: tuple[int, int], parts: Iterable[tuple[Items, Items, np.ndarray]], found: "_Found", mirrored: bool
) -> None:
    for side, others, scores in _sides(tile, parts, mirrored):
        found.add_rivals(side, others, scores, related=False)


def _clusters(related: list[tuple[int, int]], mirrored: bool) -> list[list[tuple[int, int]]]:
    """Part the tiles that hold relevant pairs, in order, so that all of a query's are in one list."""
    clusters: list[list[tuple[int, int]]] = []
    reach = -1  # the last block of queries in the list
    for tile in related:
        if tile[0] > reach:
            clusters.append([])
        clusters[-1].append(tile)
        reach = max(reach, tile[1] if mirrored else tile[0])
    return clusters


def _sides(
    tile: tuple[int, int], parts: Iterable[tuple[Items, Items, np.ndarray]], mirrored: bool
) -> Iterator[tuple[Items, Items, np.ndarray]]:
    """Yield whose scores [Q,G] a tile's are: those of its rows, and, mirrored, those of its columns."""
    for queries, items, scores in parts:
        yield queries, items, scores
        if mirrored and tile[0] != tile[1]:
            yield items, queries, scores.T


def _same_group(queries: Items, items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column [n] of all pairs of one group, row by row."""
    order = np.argsort(items.groups, kind="stable")
    low, high = (np.searchsorted(items.groups[order], queries.groups, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(low)), high - low)
    first = np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
    return row, order[first + np.arange(len(row))]


def _above(scores: np.ndarray, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row [n], rising, and value [n] of the `scores` [Q,G] above the bar [Q] of their row."""
    if scores.flags.c_contiguous:
        place = np.flatnonzero(scores > bars[:, None])
        return place // scores.shape[1], scores.ravel()[place]
    upright = np.ascontiguousarray(scores.T)  # [G,Q], without a copy where it was turned
    place = np.flatnonzero(upright > bars)
    row = place - place // len(scores) * len(scores)  # NumPy divides much faster than it takes the rest
    order = np.argsort(row.astype(np.min_scalar_type(len(scores))), kind="stable")  # 16 bits: a radix sort
    return row[order], upright.ravel()[place[order]]


class _Found:
    """What is known of each of Q queries: its relevant scores, the leading irrelevant ones, and counts.

    `rows` are the queries' own places in the gallery, if they have any. `relevant` [Q]: R of each.
    """

    def __init__(self, rows: np.ndarray | None, relevant: np.ndarray, tie_rule: str) -> None:
        shape = len(relevant), relevant.max()
        self._rows = rows
        self._relevant = relevant
        self._tie_rule = tie_rule
        self._comparisons = comparisons_of(tie_rule)
        self._scores = np.full(shape, -np.inf, np.float32)
        self._filled = np.zeros(len(relevant), np.int64)
        self._leading = np.full(shape, -np.inf, np.float32)  # falling
        self._counts = np.zeros((len(self._comparisons), len(relevant)), np.int64)
        self._best = np.full(len(relevant), np.inf, np.float32)
        self._bar = np.full(len(relevant), np.inf, np.float32)  # to be among the leading

    def add_relevant(self, queries: Items, items: Items, scores: np.ndarray) -> None:
        """Take the relevant ones of `scores` [q,g]; each pair comes once."""
        row, column = _same_group(queries, items)
        if self._rows is not None:
            others = self._rows[queries.places[row]] != items.places[column]
            row, column = row[others], column[others]
        place = queries.places[row]
        number = np.arange(len(row)) - np.searchsorted(row, row)  # of this row's, in order
        self._scores[place, self._filled[place] + number] = scores[row, column]
        self._filled += np.bincount(place, minlength=len(self._filled))

    def close_relevant(self, places: np.ndarray) -> None:
        """Derive from the relevant scores of the queries at `places` what a rival must exceed to matter."""
        places = places[self._relevant[places] > 0]
        scores = self._scores[places]
        self._best[places] = scores.max(axis=1, initial=-np.inf)
        lowest = np.where(np.isinf(scores), np.float32(np.inf), scores).min(axis=1, initial=np.inf)
        self._bar[places] = np.nextafter(lowest, np.float32(-np.inf))

    def bars(self, places: np.ndarray) -> np.ndarray:
        """Return what an irrelevant score must exceed to change anything for the queries at `places`."""
        enough = np.maximum(self._relevant[places], DEEPEST)
        beyond = self._counts[:, places].min(axis=0) >= enough
        below_best = np.nextafter(self._best[places], np.float32(-np.inf))
        return np.where(beyond, np.float32(np.inf), np.minimum(below_best, self._bar[places]))

    def add_rivals(self, queries: Items, items: Items, scores: np.ndarray, related: bool) -> None:
        """Count the irrelevant ones of `scores` [q,g] that are ahead, and keep the leading ones."""
        if related:
            scores = np.array(scores)
            scores[_same_group(queries, items)] = -np.inf
        self.add_pairs(queries.places, *_above(scores, self.bars(queries.places)))

    def add_pairs(self, places: np.ndarray, row: np.ndarray, values: np.ndarray) -> None:
        """Do so with irrelevant `values` [n] above the bars of the queries at `places[row]`, row by row."""
        if not len(row):
            return
        place = places[row]
        for count, ahead in zip(self._counts, self._comparisons, strict=True):
            count[places] += np.bincount(row[ahead(values, self._best[place])], minlength=len(places))
        leads = values > self._bar[place]
        if leads.any():
            self._keep_leading(places, row[leads], values[leads])

    def _keep_leading(self, places: np.ndarray, row: np.ndarray, values: np.ndarray) -> None:
        """Merge `values` [n] of the queries at `places[row]`, row by row, into the leading ones."""
        rows, first, counts = np.unique(row, return_index=True, return_counts=True)
        places, width = places[rows], self._leading.shape[1]
        scores = np.full((len(rows), counts.max()), -np.inf, np.float32)
        number = np.arange(len(row)) - np.repeat(first, counts)  # of this row's, in order
        scores[np.repeat(np.arange(len(rows)), counts), number] = values
        merged = np.concatenate([self._leading[places], scores], axis=1)
        merged = np.partition(merged, -width, axis=1)[:, -width:]
        merged[:] = np.sort(merged, axis=1)[:, ::-1]
        self._leading[places] = merged
        last = merged[np.arange(len(places)), self._relevant[places] - 1]  # the R-th
        self._bar[places] = np.where(last > self._best[places], np.inf, np.maximum(self._bar[places], last))

    def result(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rank, average precision at R and R-precision of the `chosen` queries."""
        pieces = np.array_split(chosen, max(1, len(chosen) * self._scores.shape[1] >> 20))
        orders = {"against": (False,), "favour": (True,), "average": (False, True)}[self._tie_rule]
        average, share = [], []
        for piece in pieces:
            both = [self._precisions(piece, relevant_first) for relevant_first in orders]
            average.append(np.mean([found[0] for found in both], axis=0))
            share.append(np.mean([found[1] for found in both], axis=0))
        ranks = average_counts(self._counts[:, chosen])
        return ranks, np.concatenate(average), np.concatenate(share)

    def _precisions(self, places: np.ndarray, relevant_first: bool) -> tuple[np.ndarray, np.ndarray]:
        sides = [self._leading[places], self._scores[places]]
        relevant_side = np.repeat([False, True], sides[0].shape[1])
        if relevant_first:
            sides, relevant_side = sides[::-1], relevant_side[::-1]
        order = np.argsort(-np.concatenate(sides, axis=1), axis=1, kind="stable")[:, : sides[0].shape[1]]
        position = np.arange(1, order.shape[1] + 1)
        count = self._relevant[places, None]
        hits = relevant_side[order] & (position <= count)  # [Q,R]
        precision = hits.cumsum(axis=1) / position
        return (precision * hits).sum(axis=1) / count[:, 0], hits.sum(axis=1) / count[:, 0]
