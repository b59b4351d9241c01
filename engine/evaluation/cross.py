"""Evaluates a cross encoder: scores each image with each distinct sentence, or with listed candidates."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from paddle import nn

from config.progress import ShowProgress
from datasets.pair_dataset import PairDataset
from datasets.pairs import (
    CrossPairs,
    JoinedPairs,
    ListedPairs,
    PairBlocks,
    Pairs,
    captions_by_image,
    folds_of_images,
)
from engine.certificates.sides import Side
from engine.evaluation.pair_scoring import score_shared, scored_blocks
from engine.evaluation.protocol import check_protocol, make_result, protocol_of
from engine.evaluation.result import Result
from engine.evaluation.scores.file import ScoreFile, names_in_file, open_scores
from engine.evaluation.scores.shards import MemoryScores, ScoreStore
from engine.inspection.kept_lists import ListKeeper
from engine.ranking.counter import RankCounter
from engine.ranking.metrics import RECALLS, summarize

MEASURE = "cross-encoder"
CANDIDATES_RULE = (
    "image to text alone, each image against its listed captions; an image with none of its own among them "
    "ranks behind all of them"
)

ScoredPairs = Callable[[], Iterator[tuple[Pairs, np.ndarray]]]


def evaluate_cross(
    model: nn.Layer,
    dataset: PairDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    batch_tokens: int = 8192,
    block_pairs: int = 4096,
    progress: ShowProgress | None = None,
) -> Result:
    """Measure retrieval in both directions from the scores of all pairs, which are kept in memory.

    `batch_tokens` is explained at `pair_scoring.score_pairs`; `block_pairs` is the number of pairs in a
    block. The other arguments, and the errors raised, are those of `dual.evaluate`.
    """
    check_protocol(dataset, split, folds)
    blocks = cross_blocks(dataset, folds, block_pairs)
    store = MemoryScores(len(blocks))
    score_shared(model, dataset, blocks, store, batch_tokens, progress)
    return rank_cross(blocks, store, dataset, split, folds, tie_rule)


def cross_blocks(dataset: PairDataset, folds: int, block_pairs: int) -> PairBlocks:
    """Return the pairs of a full evaluation: each image with each distinct sentence of its fold.

    A pair refers to a sentence by the first caption of the split that says it.
    """
    image_fold = folds_of_images(dataset.num_images, folds)
    parts = []
    for fold in range(folds):
        images = np.flatnonzero(image_fold == fold)
        in_fold = image_fold[dataset.caption_image] == fold
        captions = dataset.distinct_captions[np.unique(dataset.sentence_ids[in_fold])]
        parts.append(
            CrossPairs(
                images,
                captions,
                dataset.image_lengths[images],
                dataset.caption_lengths[captions],
                block_pairs,
            )
        )
    return JoinedPairs(parts)


def rank_cross(
    blocks: PairBlocks,
    store: ScoreStore,
    dataset: PairDataset,
    split: str,
    folds: int = 1,
    tie_rule: str = "against",
    scores_path: str | Path | None = None,
    keeper: ListKeeper | None = None,
) -> Result:
    """Measure retrieval in both directions from the scores of `blocks`, which hold all competing pairs.

    All scores are written to `scores_path`, if given; `blocks` must then hold the pairs across folds too.
    `keeper` receives all scores.
    """
    image_fold = folds_of_images(dataset.num_images, folds)
    with open_scores(scores_path, dataset) as scores_out:
        of_images, of_captions = cross_counters(
            lambda: scored_blocks(blocks, store), dataset, image_fold, tie_rule, scores_out, keeper
        )
        if scores_out:
            scores_out.save(
                dataset.image_ids,
                [dataset.image_ids[image] for image in dataset.caption_image],
                **names_in_file(dataset),
            )
    sentences, ranks = len(dataset.distinct_captions), (of_images.tied(), of_captions.tied())
    result = make_result(
        dataset, split, ranks, image_fold, tie_rule, sentences, MEASURE, dataset.sentence_ids
    )
    result.protocol["pairs_scored"] = blocks.num_pairs
    return result


def cross_counters(
    scored: ScoredPairs,
    dataset: PairDataset,
    image_fold: np.ndarray,
    tie_rule: str = "against",
    scores_out: ScoreFile | None = None,
    keeper: ListKeeper | None = None,
) -> tuple[RankCounter, RankCounter]:
    """Return the counters of the ranks of every image's best caption [N] and of every caption's image [M].

    Each call of `scored` yields all competing pairs of an image and a sentence once, in blocks, with their
    scores [P]. A pair refers to a sentence by its first caption. Memory holds one block.
    """
    captions_of = _CaptionsOfSentences(dataset.sentence_ids)
    of_images = RankCounter(dataset.num_images, tie_rule)
    of_captions = RankCounter(dataset.num_captions, tie_rule)

    def competing() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield images, captions, scores and whether they match, of all pairs within a fold."""
        for pairs, scores in scored():
            rows, captions = captions_of.expand(pairs.captions)
            images, scores = pairs.images[rows], scores[rows]
            right = dataset.relevance.are_right(images, captions)
            same_fold = image_fold[dataset.caption_image[captions]] == image_fold[images]
            yield images[same_fold], captions[same_fold], scores[same_fold], right[same_fold]

    for images, captions, scores, right in competing():
        of_images.see_relevant(images[right], scores[right])
        of_captions.see_relevant(captions[right], scores[right])
    for images, captions, scores, right in competing():
        of_images.see_rivals(images[~right], scores[~right])
        of_captions.see_rivals(captions[~right], scores[~right])
    sinks = [sink for sink in (scores_out, keeper) if sink is not None]
    if sinks:
        for pairs, scores in scored():
            rows, captions = captions_of.expand(pairs.captions)
            for sink in sinks:
                sink.write_pairs(pairs.images[rows], captions, scores[rows])
    return of_images, of_captions


class _CaptionsOfSentences:
    """An index from a caption to all captions that say the same sentence."""

    def __init__(self, sentence_ids: np.ndarray) -> None:
        self._sentence_ids = sentence_ids
        self._order, self._starts = captions_by_image(sentence_ids, 0)

    def expand(self, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each of `captions` [P], all captions that say its sentence.

        Returns two arrays [n]: indices into `captions`, ascending, and the captions found for these.
        """
        sentences = self._sentence_ids[captions]
        counts = np.diff(self._starts)[sentences]
        rows = np.repeat(np.arange(len(captions)), counts)
        begins = np.cumsum(counts) - counts
        offsets = np.arange(len(rows)) - begins[rows]
        return rows, self._order[self._starts[sentences[rows]] + offsets]


def candidate_blocks(dataset: PairDataset, candidates: Pairs, block_pairs: int) -> ListedPairs:
    """Return the pairs of the listed candidates, each image with each distinct sentence once."""
    distinct = dataset.distinct_captions[dataset.sentence_ids[candidates.captions]]
    return ListedPairs(
        Pairs(candidates.images, distinct), dataset.image_lengths, dataset.caption_lengths, block_pairs
    )


def scores_of_candidates(
    blocks: PairBlocks, store: ScoreStore, dataset: PairDataset, candidates: Pairs
) -> np.ndarray:
    """Return the score [P] of each of `candidates`; `blocks` is what `candidate_blocks` made of them."""
    width = dataset.num_captions
    keys, scores = [], []
    for pairs, block_scores in scored_blocks(blocks, store):
        keys.append(pairs.images * width + pairs.captions)
        scores.append(block_scores)
    keys, scores = np.concatenate(keys), np.concatenate(scores)
    order = np.argsort(keys)
    wanted = candidates.images * width + dataset.distinct_captions[dataset.sentence_ids[candidates.captions]]
    return scores[order][np.searchsorted(keys, wanted, sorter=order)]


def evaluate_candidates(
    model: nn.Layer,
    dataset: PairDataset,
    candidates: Pairs,
    split: str,
    tie_rule: str = "against",
    batch_tokens: int = 8192,
    block_pairs: int = 4096,
    progress: ShowProgress | None = None,
) -> Result:
    """Measure image to text among listed captions, as VinVL validates; the scores are kept in memory."""
    blocks = candidate_blocks(dataset, candidates, block_pairs)
    store = MemoryScores(len(blocks))
    score_shared(model, dataset, blocks, store, batch_tokens, progress)
    return rank_candidates(blocks, store, dataset, candidates, split, tie_rule)


def rank_candidates(
    blocks: PairBlocks,
    store: ScoreStore,
    dataset: PairDataset,
    candidates: Pairs,
    split: str,
    tie_rule: str = "against",
) -> Result:
    """Measure image to text from the scores of listed captions.

    The rank of an image is the number of wrong captions on its list ahead of its best own caption. If the
    list holds no own caption, the rank is the length of the list: captions that were not scored come after
    it, as in VinVL. Every image has a list.
    """
    scores = scores_of_candidates(blocks, store, dataset, candidates)
    right = dataset.relevance.are_right(candidates.images, candidates.captions)
    counter = RankCounter(dataset.num_images, tie_rule)
    counter.see_relevant(candidates.images[right], scores[right])
    counter.see_rivals(candidates.images[~right], scores[~right])
    ranks = counter.ranks()
    side = Side.of(
        counter.tied(),
        np.arange(dataset.num_images),
        np.zeros(dataset.num_images, np.int64),
        np.maximum(dataset.relevance.of_images, 1),
        np.bincount(candidates.images, minlength=dataset.num_images),
        RECALLS,
    )
    counts = {
        "images": dataset.num_images,
        "captions": dataset.num_captions,
        "distinct_sentences": len(dataset.distinct_captions),
        "folds": 1,
        "candidates": len(candidates),
        "candidates_text": CANDIDATES_RULE,
    }
    protocol = {**protocol_of(split, counts, tie_rule, MEASURE), "pairs_scored": blocks.num_pairs}
    return Result(summarize(ranks), protocol, [], ranks, None, {"i2t_": side})
