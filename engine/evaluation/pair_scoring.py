"""Scores pairs of images and captions with a cross encoder, block by block."""

import hashlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import nn

from config.progress import ShowProgress
from datasets.pair_dataset import PairDataset
from datasets.pairs import PairBlocks, Pairs
from engine.evaluation.protocol import check_finite, evaluation_mode, tensors_of
from engine.evaluation.scores.shards import ScoreStore
from engine.parallel.processes import all_or_none, broadcast_array, process_number, world_size

SCORING = "score pairs"

_CHUNK_PAIRS = 8192
_SAMPLED_IMAGES = 8


def score_blocks(
    model: nn.Layer,
    dataset: PairDataset,
    blocks: PairBlocks,
    store: ScoreStore,
    batch_tokens: int,
    todo: list[int] | None = None,
    progress: ShowProgress | None = None,
) -> None:
    """Score the blocks `todo` (default: all that `store` lacks) and write the scores into `store`.

    `batch_tokens` is explained at `score_pairs`. `progress` is called with a stage, the number of scored
    pairs and their total.
    """
    todo = store.missing() if todo is None else todo
    total, done = sum(len(blocks.block(index)) for index in todo), 0
    for index in todo:
        pairs = blocks.block(index)

        def announce(scored: int, before: int = done) -> None:
            if progress:
                progress(SCORING, before + scored, total)

        store.write(index, score_pairs(model, dataset, pairs, batch_tokens, announce))
        done += len(pairs)


def score_shared(
    model: nn.Layer,
    dataset: PairDataset,
    blocks: PairBlocks,
    store: ScoreStore,
    batch_tokens: int,
    progress: ShowProgress | None = None,
) -> None:
    """Score all blocks, each process a part of them, and copy all scores into the `store` of each process."""
    own = range(process_number(), len(blocks), world_size())
    all_or_none(lambda: score_blocks(model, dataset, blocks, store, batch_tokens, list(own), progress))
    if world_size() == 1:
        return
    for index in range(len(blocks)):
        known = store.read(index) if index in own else np.empty(len(blocks.block(index)), np.float32)
        store.write(index, broadcast_array(index % world_size(), known))


def score_pairs(
    model: nn.Layer,
    dataset: PairDataset,
    pairs: Pairs,
    batch_tokens: int,
    announce: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return the score of each pair, float32 [P].

    A batch has about `batch_tokens` tokens and regions, so that memory does not depend on the length of the
    pairs; each image of a batch is read once. `announce` is called with the number of scored pairs. Raises
    UserError that names a pair whose score is not finite.
    """
    scores = np.empty(len(pairs), np.float32)
    with evaluation_mode(model), paddle.no_grad():
        lengths = dataset.pair_lengths(pairs)
        for part in _batches(lengths, batch_tokens):
            # Attention computes neighbours of equal length in one go.
            order = part.start + np.argsort(lengths[part], kind="stable")
            batch = tensors_of(dataset.batch(pairs[order]))
            scores[order] = model.score_pairs(batch).numpy()
            if announce:
                announce(part.stop)
    check_finite("scores", scores, lambda row: _name_of_pair(dataset, pairs.images[row], pairs.captions[row]))
    return scores


def _name_of_pair(dataset: PairDataset, image: int, caption: int) -> str:
    return f"image {dataset.image_ids[image]} with caption {caption + 1} ({dataset.captions[caption]!r})"


def scored_blocks(blocks: PairBlocks, store: ScoreStore) -> Iterator[tuple[Pairs, np.ndarray]]:
    """Yield the pairs of every block with their scores [P]."""
    for index in range(len(blocks)):
        yield blocks.block(index), store.read(index)


def pairs_per_second(model: nn.Layer, dataset: PairDataset, blocks: PairBlocks, batch_tokens: int) -> float:
    """Return the speed of `model`, measured on a batch of the middle block after a warm-up on the same."""
    pairs = blocks.block(len(blocks) // 2)
    first = _batches(dataset.pair_lengths(pairs), batch_tokens)[0]
    for _ in range(2):
        start = time.perf_counter()
        score_pairs(model, dataset, pairs[first], batch_tokens)
        seconds = time.perf_counter() - start
    return first.stop / seconds


def data_identity(dataset: PairDataset) -> str:
    """Return a hash of the data that scores depend on.

    The hash covers the images' ids and lengths, the tokens of every caption with its image's tags, and the
    features of a few images: reading all features would take as long as some evaluations.
    """
    digest = hashlib.sha256()
    digest.update("\0".join(dataset.image_ids).encode())
    digest.update(np.asarray(dataset.image_lengths, np.int64).tobytes())
    digest.update(np.asarray(dataset.caption_image, np.int64).tobytes())
    own = Pairs(dataset.caption_image, np.arange(dataset.num_captions))
    for part in own.batches(_CHUNK_PAIRS):
        for array in dataset.text_batch(part).values():
            digest.update(array.tobytes())
    images = np.unique(np.linspace(0, dataset.num_images - 1, _SAMPLED_IMAGES).astype(np.int64))
    for array in dataset.image_batch(images).values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def pairs_identity(blocks: PairBlocks) -> str:
    """Return a hash of the pairs of all blocks, in order."""
    digest = hashlib.sha256()
    for index in range(len(blocks)):
        pairs = blocks.block(index)
        digest.update(np.int64(len(pairs)).tobytes())
        digest.update(np.asarray(pairs.images, np.int64).tobytes())
        digest.update(np.asarray(pairs.captions, np.int64).tobytes())
    return digest.hexdigest()


def _batches(lengths: np.ndarray, batch_tokens: int) -> list[slice]:
    """Return slices of `lengths` [P] with a sum of about `batch_tokens`."""
    group = np.cumsum(lengths) // batch_tokens
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(lengths)]
    return [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True)]
