"""Ranks in both directions where each process holds the embeddings of a share of the images and sentences.

Every process scores its own images with the sentences of all: blocks of sentences travel from their owner to
the others, one after another, and are forgotten again. Counts are then added up. Beside its share a process
holds one block, one tile of scores, and integers for each image and caption.

Ties are exact as in `engine.ranking.ranks`: of equal vectors, those of the first process that has one serve
all, so that each pair of vectors is multiplied once, in one place.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import paddle

from engine.parallel.processes import all_reduce, broadcast_array, process_number, world_size
from engine.ranking.metrics import average_counts, check_every_group_occurs, comparisons_of
from engine.ranking.ranks import Both, count_ahead, groups_of, raise_best
from engine.ranking.similarity import Similarity, check_magnitude
from engine.ranking.tiles import Block, Items, Tiles, blocks_of
from models.gathering import gather_counts, gather_rows


@dataclass(frozen=True)
class Share:
    """The vectors [V,D] of one side that this process holds, and who has which.

    All vectors are counted process by process: `vector_of` [items] is the one that each image, or caption,
    has.
    """

    vectors: np.ndarray
    vector_of: np.ndarray


def shared_ranks(
    images: Share,
    captions: Share,
    image_ids: list[str],
    caption_image_ids: list[str],
    similarity: Similarity,
    block_size: int,
    tie_rule: str,
    image_fold: np.ndarray,
    caption_fold: np.ndarray,
    progress: Callable[[int, int], None],
) -> Both:
    """Return the ranks of all images [N] and captions [M], in every process; see `ranking.retrieval_ranks`.

    `progress` is called with the blocks of sentences done and their number, two passes' together, at the same
    points in every process.
    """
    comparisons = comparisons_of(tie_rule)
    groups = groups_of(image_ids, caption_image_ids, image_fold, caption_fold)
    check_every_group_occurs(*groups, image_ids, "image")
    check_every_group_occurs(*groups[::-1], caption_image_ids, "caption")
    image_blocks = _own_blocks("image", images, groups[0], image_fold, block_size)
    own_blocks = _own_blocks("sentence", captions, groups[1], caption_fold, block_size)
    travelling = _Travelling(own_blocks, groups[1], caption_fold, block_size, captions.vectors)

    dtype = np.result_type(images.vectors, captions.vectors)
    best = tuple(np.full(len(side), -np.inf, dtype) for side in groups)
    for number, block in enumerate(travelling.blocks(), start=1):
        tiles = Tiles(image_blocks, [block], similarity)
        for tile in tiles.related():
            for part in tiles.scores(tile, keep=False):
                raise_best(best, *part)
        progress(number, 2 * travelling.count)
    best = tuple(all_reduce(side, "max") for side in best)
    counts = tuple(np.zeros((len(comparisons), len(side)), np.int64) for side in groups)
    for number, block in enumerate(travelling.blocks(), start=1):
        tiles = Tiles(image_blocks, [block], similarity)
        for tile in tiles.competing():
            for part in tiles.scores(tile, keep=False):
                count_ahead(counts, best, *part, comparisons)
        progress(travelling.count + number, 2 * travelling.count)
    i2t, t2i = (average_counts(all_reduce(side, "sum")) for side in counts)
    return i2t, t2i


def _own_blocks(what: str, share: Share, groups: np.ndarray, folds: np.ndarray, size: int) -> list[Block]:
    """Return blocks of the vectors that are this process's, with all items that have them or their equals."""
    check_magnitude(what, share.vectors)
    counts = gather_counts(len(share.vectors))
    start = sum(counts[: process_number()])
    first = _first_equal(share.vectors)[share.vector_of] - start  # [items]
    items = np.flatnonzero((first >= 0) & (first < len(share.vectors)))
    if not len(items):
        return []
    blocks = blocks_of(share.vectors, first[items], groups[items], folds[items], size)
    return [
        replace(
            block, portions=[replace(portion, places=items[portion.places]) for portion in block.portions]
        )
        for block in blocks
    ]


def _first_equal(vectors: np.ndarray) -> np.ndarray:
    """Return for each vector of all processes [all V] the first that is equal, byte by byte."""
    digests = b"".join(hashlib.sha256(row).digest() for row in np.ascontiguousarray(vectors))
    own = np.frombuffer(digests, np.int64).reshape(-1, 4)
    (everyone,) = gather_rows(paddle.to_tensor(own))
    _, first, inverse = np.unique(everyone.numpy(), axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


class _Travelling:
    """The blocks of sentences of all processes, which each sends to the others in turn."""

    def __init__(
        self, own: list[Block], groups: np.ndarray, folds: np.ndarray, size: int, vectors: np.ndarray
    ) -> None:
        self._own, self._groups, self._folds, self._size = own, groups, folds, size
        self._width, self._dtype = vectors.shape[1], vectors.dtype
        self._counts = gather_counts(len(own))
        self.count = sum(self._counts)

    def blocks(self) -> Iterator[Block]:
        """Yield every block, in every process at the same time."""
        for owner in range(world_size()):
            for number in range(self._counts[owner]):
                yield self._send(owner, self._own[number] if owner == process_number() else None)

    def _send(self, owner: int, block: Block | None) -> Block:
        lengths = [0, 0]
        if block is not None:
            places = np.concatenate([portion.places for portion in block.portions])
            lengths = [len(block.vectors), len(places)]
            which = [
                np.arange(len(places)) if portion.vectors is None else portion.vectors
                for portion in block.portions
            ]
            items = np.stack([places, np.concatenate(which)])
        vectors_count, items_count = broadcast_array(owner, np.array(lengths)).tolist()
        if block is None:
            items = np.empty((2, items_count), np.int64)
            vectors = np.empty((vectors_count, self._width), self._dtype)
        else:
            vectors = block.vectors
        (places, which), vectors = broadcast_array(owner, items), broadcast_array(owner, vectors)
        if block is not None:
            return block
        portions = []
        for start in range(0, items_count, self._size):
            part = places[start : start + self._size]
            vector_of = None if items_count == vectors_count else which[start : start + self._size]
            portions.append(Items(part, vector_of, self._groups[part], self._folds[part]))
        groups, folds = np.unique(self._groups[places]), np.unique(self._folds[places])
        return Block(vectors, slice(None), portions, groups, folds)
