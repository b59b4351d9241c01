"""Two-stage retrieval: a dual encoder proposes short lists, and a cross encoder re-ranks them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.pair_dataset import PairDataset
from datasets.pairs import ListedPairs, candidate_pairs, folds_of_images
from engine.evaluation.cross import candidate_blocks, cross_blocks, scores_of_candidates
from engine.evaluation.protocol import make_result
from engine.evaluation.result import Result
from engine.evaluation.scores.shards import ScoreStore
from engine.ranking.counter import RankCounter, TiedRanks
from engine.ranking.short_lists import ShortLists

# The lengths of short lists that a curve shows, up to the longest list.
CURVE = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 100, 150, 200, 300, 500, 1000)
# Weights of the dual encoder's similarity, added to the cross encoder's score, to choose from on dev.
WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


TiedBothWays = tuple[TiedRanks, TiedRanks]  # of the images, of the captions


@dataclass(frozen=True)
class Point:
    """A point of a curve: the metrics with short lists of `k`, and the number of pairs that were scored."""

    k: int
    pairs_scored: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Reranked:
    """The outcome of re-ranking lists of `k`, with a `curve` over shorter ones, which need no further scores.

    `result` has the metrics, folds and ranks at `k`. `pairs_scored` is the number of distinct pairs of an
    image and a sentence; the cross encoder alone would score `all_pairs`. `weighted` holds the metrics at `k`
    by weight of the dual encoder.
    """

    k: int
    pairs_scored: int
    all_pairs: int
    result: Result
    curve: list[Point]
    weighted: dict[float, dict[str, float]]

    def as_dict(self) -> dict:
        """Return the entry of `result.json`."""
        return {
            "k": self.k,
            "pairs_scored": self.pairs_scored,
            "all_pairs": self.all_pairs,
            "metrics": self.result.metrics,
            "folds": self.result.folds,
            "curve": [
                {"k": point.k, "pairs_scored": point.pairs_scored, "metrics": point.metrics}
                for point in self.curve
            ],
            "weighted": [
                {"dual_weight": weight, "metrics": metrics} for weight, metrics in self.weighted.items()
            ],
        }


def listed_blocks(dataset: PairDataset, lists: ShortLists, block_pairs: int) -> ListedPairs:
    """Return the pairs of both directions' short lists, each image with each distinct sentence once."""
    return candidate_blocks(
        dataset, candidate_pairs(lists.captions_of_image, lists.images_of_caption), block_pairs
    )


def rerank(
    dataset: PairDataset,
    lists: ShortLists,
    blocks: ListedPairs,
    store: ScoreStore,
    first: Result,
    dual_weight: float = 0.0,
    other_weights: Sequence[float] = (),
) -> Reranked:
    """Re-rank the short lists by the scores of `blocks`, which `store` holds, and measure.

    `first` is the result of the dual encoder that made the lists; its protocol is kept, and so are its ranks
    beyond a list. A list is ordered by the cross encoder's score plus `dual_weight` times the dual encoder's.
    """
    protocol = first.protocol
    image_fold = folds_of_images(dataset.num_images, protocol["folds"])
    sides = _sides(dataset, lists, _cross_scores(dataset, lists, blocks, store), image_fold, first.tied)

    def result_of(k: int, weight: float) -> Result:
        return make_result(
            dataset,
            protocol["split"],
            tuple(side.ranks(k, weight) for side in sides),
            image_fold,
            protocol["tie_rule"],
            protocol["distinct_sentences"],
            protocol["measure"],
        )

    longest = max(int((side.places >= 0).sum(axis=1).max()) for side in sides)
    curve = [
        Point(k, count_pairs(dataset, lists, k), result_of(k, dual_weight).metrics)
        for k in (*(k for k in CURVE if k < longest), longest)
    ]
    all_pairs = cross_blocks(dataset, protocol["folds"], 1).num_pairs
    weighted = {weight: result_of(longest, weight).metrics for weight in other_weights}
    result = result_of(longest, dual_weight)
    return Reranked(longest, blocks.num_pairs, all_pairs, result, curve, weighted)


def count_pairs(dataset: PairDataset, lists: ShortLists, k: int) -> int:
    """Return the number of distinct pairs of an image and a sentence in the first `k` places of the lists."""
    pairs = candidate_pairs(lists.captions_of_image[:, :k], lists.images_of_caption[:, :k])
    return len(np.unique(pairs.images * dataset.num_captions + dataset.sentence_ids[pairs.captions]))


def short_list_ranks(
    right: np.ndarray,
    wrong: np.ndarray,
    scores: np.ndarray,
    first_ranks: np.ndarray,
    tie_rule: str = "against",
) -> np.ndarray:
    """Return the 0-based rank [Q] of each query's best relevant item in its list, ordered by `scores` [Q,k].

    `right` bool [Q,k] tells whether a place of the list holds a relevant item; `wrong` int [Q,k] is the
    number of irrelevant items that the place stands for, 0 after the end of a list. A query without a
    relevant item on its list keeps its rank in `first_ranks` [Q], which is beyond the list.
    """
    counter, everyone = RankCounter(len(scores), tie_rule, scores.dtype), slice(None)
    counter.see_relevant_rows(everyone, np.where(right, scores, -np.inf))
    counter.see_rival_rows(everyone, scores, wrong)
    # With ties in favour, listed items with the score of the best relevant one were not counted as ahead of
    # it; now all listed items are ahead.
    behind = np.maximum(first_ranks, wrong.sum(axis=1))
    return np.where(right.any(axis=1), counter.ranks(), behind)


@dataclass(frozen=True)
class _Side:
    """One direction's lists: `places`, `right`, `wrong`, both models' scores [Q,k], and `first` ranks [Q]."""

    places: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    cross: np.ndarray
    dual: np.ndarray
    first: TiedRanks

    def ranks(self, k: int, dual_weight: float) -> TiedRanks:
        """Return the ranks [Q] of lists of `k`."""
        scores = self.cross + np.float32(dual_weight) * self.dual if dual_weight else self.cross
        return TiedRanks(
            *(
                short_list_ranks(
                    self.right[:, :k], self.wrong[:, :k], scores[:, :k], self.first.by(rule), rule
                )
                for rule in ("favour", "against")
            )
        )


def _sides(
    dataset: PairDataset,
    lists: ShortLists,
    cross: list[np.ndarray],
    image_fold: np.ndarray,
    first: TiedBothWays,
) -> tuple[_Side, _Side]:
    """Return the lists of both directions; on an image's list a caption stands for all that say the same."""
    captions, images = lists.captions_of_image, lists.images_of_caption
    relevance = dataset.relevance.within(image_fold, image_fold[dataset.caption_image])
    own = _count_captions(dataset, captions, relevance.images, relevance.captions, np.arange(len(captions)))
    everyone = np.arange(dataset.num_captions)
    folds = image_fold[dataset.caption_image]
    competing = _count_captions(dataset, captions, folds, everyone, image_fold)
    right, listed = relevance.are_right(images, everyone[:, None]), images >= 0
    return (
        _Side(captions, own > 0, competing - own, cross[0], lists.image_scores, first[0]),
        _Side(
            images,
            right & listed,
            (listed & ~right).astype(np.int64),
            cross[1],
            lists.caption_scores,
            first[1],
        ),
    )


def _count_captions(
    dataset: PairDataset,
    listed: np.ndarray,
    owners: np.ndarray,
    captions: np.ndarray,
    owner_of_image: np.ndarray,
) -> np.ndarray:
    """Return how many captions of an owner say what each of `listed` [images,k] says: int64 [images,k].

    `owners` [P] own `captions` [P]; `owner_of_image` [images] is the one whose captions count for each list.
    """
    sentences, width = dataset.sentence_ids, len(dataset.distinct_captions)
    keys, counts = np.unique(owners * width + sentences[captions], return_counts=True)
    wanted = owner_of_image[:, None] * width + sentences[listed]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[place] == wanted) & (listed >= 0), counts[place], 0)


def _cross_scores(
    dataset: PairDataset, lists: ShortLists, blocks: ListedPairs, store: ScoreStore
) -> list[np.ndarray]:
    """Return the cross encoder's scores [images,k] and [captions,k] of the lists, -infinity after the end."""
    captions, images = lists.captions_of_image, lists.images_of_caption
    found = scores_of_candidates(blocks, store, dataset, candidate_pairs(captions, images))
    of_images = np.count_nonzero(captions >= 0)
    scores = []
    for places, values in ((captions, found[:of_images]), (images, found[of_images:])):
        scores.append(np.full(places.shape, -np.inf, np.float32))
        scores[-1][places >= 0] = values
    return scores
