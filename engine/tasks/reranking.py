"""Re-rank the short lists of a dual encoder with a cross encoder."""

from collections.abc import Sequence

from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES, names_of
from config.load import config_of_checkpoint
from datasets.captions.swapped import SwappedPair
from datasets.pair_dataset import PairDataset
from datasets.pairs import folds_of_images
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.ensemble import check_same_pairs
from engine.evaluation.reranking import WEIGHTS, listed_blocks, rerank
from engine.evaluation.result import Result
from engine.evaluation.scores.shards import ScoreShards
from engine.parallel.processes import is_main
from engine.ranking.short_lists import ShortLists
from engine.tasks.certificates import certificate_entry, certified
from engine.tasks.pair_scores import CrossEncoder, measure_swapped_pairs, open_cross_encoder, score_together
from engine.tasks.task import EvaluationOptions


def load_reranker(cfg: CfgNode, dataset: RetrievalDataset) -> CrossEncoder:
    """Return the cross encoder at EVAL.RERANK_DIR, with the split as its own run's configuration reads it.

    Raises UserError for another kind of model, and for images or captions that differ from `dataset`'s.
    """
    folder = cfg.EVAL.RERANK_DIR
    keys = "EVAL.SPLIT", "EVAL.FOLDS", "DATASET.RELEVANCE", "DATASET.RELEVANCE_GRADE"
    same = [f"{key}={cfg[key.split('.')[0]][key.split('.')[1]]}" for key in keys]
    own = config_of_checkpoint(folder, same, "EVAL.RERANK_DIR")
    if FAMILIES[own.MODEL.NAME].kind != "cross":
        raise UserError(
            f"EVAL.RERANK_DIR: expected the checkpoint of a cross encoder ({', '.join(names_of('cross'))}), "
            f"got {folder}, of a run of {own.MODEL.NAME}: swap the two, or train configs/scenes/oscar.yaml"
        )
    cross = open_cross_encoder(own)
    check_same_pairs(dataset, "the dual encoder", cross.dataset, folder)
    return cross


def short_lists_of(cfg: CfgNode, dataset: PairDataset) -> ShortLists:
    """Return empty short lists, EVAL.RERANK_K long, for the images and captions of `dataset`."""
    image_fold = folds_of_images(dataset.num_images, cfg.EVAL.FOLDS)
    return ShortLists(cfg.EVAL.RERANK_K, image_fold, image_fold[dataset.caption_image], dataset.sentence_ids)


def rerank_lists(
    cfg: CfgNode,
    cross: CrossEncoder,
    lists: ShortLists,
    first: Result,
    pairs: Sequence[SwappedPair],
    options: EvaluationOptions,
) -> tuple[dict, ScoreShards, Result | None]:
    """Re-rank `lists`; return the entry `rerank` of `result.json`, the scores, and the re-ranked result.

    `first` is the result of the dual encoder that made the lists. `pairs` are the swapped captions of the
    split. Processes of a launched job share the scoring; the first one alone has the entry and the result.
    """
    blocks = listed_blocks(cross.dataset, lists, cfg.EVAL.BLOCK_PAIRS)
    store = score_together(cfg, cross, blocks, options)
    if not is_main():
        return {}, store, None
    weight = cfg.EVAL.RERANK_DUAL_WEIGHT
    to_choose_from = WEIGHTS if cfg.EVAL.SPLIT == "dev" else ()  # nothing is chosen on test
    reranked = rerank(cross.dataset, lists, blocks, store, first, weight, to_choose_from)
    found = reranked.as_dict() | {"dual_weight": weight, "checkpoint": cross.checkpoint}
    found |= certificate_entry(certified(cfg, reranked.result.sides))
    return found | measure_swapped_pairs(cfg, cross, pairs), store, reranked.result
