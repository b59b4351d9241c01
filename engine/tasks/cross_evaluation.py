"""Build the evaluations in which a cross encoder scores pairs: by itself, or behind a dual encoder."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddle import nn
from yacs.config import CfgNode

from config.errors import UserError
from config.families import CROSS_ENCODERS
from config.load import config_as_dict, config_of_checkpoint
from datasets.build.cross import build_candidates, open_pair_split, pair_dataset_of
from datasets.pair_dataset import PairDataset
from datasets.pairs import PairBlocks, Pairs
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.cross import candidate_blocks, cross_blocks, rank_candidates, rank_cross
from engine.evaluation.ensemble import check_same_pairs
from engine.evaluation.pair_scoring import data_identity, pairs_identity, pairs_per_second, score_blocks
from engine.evaluation.protocol import Progress, check_protocol, measured_weights
from engine.evaluation.reranking import WEIGHTS, listed_blocks, rerank
from engine.evaluation.result import Result
from engine.evaluation.score_shards import ScoreShards
from engine.evaluation.swapped import Pair, cross_swapped_scores, percent_told_apart
from engine.parallel.processes import (
    broadcast_values,
    process_number,
    start_process_group,
    wait_for_all,
    world_size,
)
from engine.ranking.short_lists import ShortLists
from engine.runs.run_log import duration
from engine.tasks.loading import checkpoint_folder, load_trained, split_name

Say = Callable[[str], None]


@dataclass(frozen=True)
class CrossEncoder:
    """A trained cross encoder and the split that it is to score.

    `candidates`: the pairs to which EVAL.EVAL_CAPTION_INDEX_FILE limits it, if any. `checkpoint`: `folder`,
    `sha256`, `model` and `step`; `settings`: a hash of what the configuration says of the model.
    """

    model: nn.Layer
    dataset: PairDataset
    candidates: Pairs | None
    checkpoint: dict
    settings: str


def is_cross_encoder(cfg: CfgNode) -> bool:
    """Tell whether the configured model scores pairs, and embeds nothing."""
    return cfg.MODEL.NAME in CROSS_ENCODERS


def refuse_cross_encoder(cfg: CfgNode) -> None:
    """Raise UserError for a model that has no embeddings to search or to show."""
    if is_cross_encoder(cfg):
        raise UserError(
            f"MODEL.NAME: expected a dual encoder, which embeds images and sentences, got {cfg.MODEL.NAME}: "
            "name the run of a dual encoder, and let this one re-rank with "
            f"EVAL.RERANK_DIR={checkpoint_folder(cfg)}"
        )


def load_cross_encoder(cfg: CfgNode) -> CrossEncoder:
    """Return the trained cross encoder that `cfg` names, and EVAL.SPLIT."""
    split = open_pair_split(cfg, split_name(cfg), training=False)
    model, word_piece, state, folder = load_trained(cfg)
    config = config_as_dict(cfg)
    settings = json.dumps([config["MODEL"], config["INPUT"], config["OUTPUT"]["NUM_LABELS"]], sort_keys=True)
    return CrossEncoder(
        model,
        pair_dataset_of(cfg, split, word_piece),
        build_candidates(cfg, split),
        measured_weights(state, folder),
        hashlib.sha256(settings.encode()).hexdigest(),
    )


def load_reranker(cfg: CfgNode, dataset: RetrievalDataset) -> CrossEncoder:
    """Return the cross encoder at EVAL.RERANK_DIR with the split of the configuration of its own run.

    Raises UserError for a dual encoder's checkpoint, and for images or captions that are not `dataset`'s.
    """
    folder = cfg.EVAL.RERANK_DIR
    own = config_of_checkpoint(folder, [f"EVAL.SPLIT={cfg.EVAL.SPLIT}"], "EVAL.RERANK_DIR")
    if not is_cross_encoder(own):
        raise UserError(
            f"EVAL.RERANK_DIR: expected the checkpoint of a cross encoder ({', '.join(CROSS_ENCODERS)}), got "
            f"{folder}, of a run of {own.MODEL.NAME}: swap the two, or train configs/scenes/oscar.yaml"
        )
    cross = load_cross_encoder(own)
    check_same_pairs(dataset, "the dual encoder", cross.dataset, folder)
    return cross


def evaluate_cross_encoder(
    cfg: CfgNode,
    shards: Path,
    pairs: Callable[[PairDataset], list[Pair]],
    scores_path: str | Path | None,
    progress: Progress | None,
    say: Say,
) -> tuple[Result, dict, dict, ScoreShards] | None:
    """Measure the cross encoder that `cfg` names by all pairs of its split, or by listed candidates.

    Scores go into the folder `shards` as they are made. `pairs` returns the swapped captions of a split.
    Returns the result, the checkpoint, further measurements, and the scores, to be deleted when all this is
    kept; None in every process but the first.
    """
    cross = load_cross_encoder(cfg)
    dataset, split = cross.dataset, split_name(cfg)
    check_protocol(dataset, split, cfg.EVAL.FOLDS)
    if cross.candidates is None:
        # a file of all scores needs also those that do not compete
        blocks = cross_blocks(dataset, 1 if scores_path else cfg.EVAL.FOLDS, cfg.EVAL.BLOCK_PAIRS)
        _announce_all(cfg, cross, blocks, say)
    else:
        _check_candidates(cfg, scores_path)
        blocks = candidate_blocks(dataset, cross.candidates, cfg.EVAL.BLOCK_PAIRS)
    store = score_together(cfg, cross, blocks, shards, progress, say)
    if process_number() > 0:
        return None
    if cross.candidates is None:
        result = rank_cross(blocks, store, dataset, split, cfg.EVAL.FOLDS, cfg.EVAL.TIE_RULE, scores_path)
    else:
        result = rank_candidates(blocks, store, dataset, cross.candidates, split, cfg.EVAL.TIE_RULE)
    return result, cross.checkpoint, measure_swapped_pairs(cfg, cross, pairs(dataset)), store


def rerank_lists(
    cfg: CfgNode,
    cross: CrossEncoder,
    lists: ShortLists,
    first: Result,
    shards: Path,
    pairs: list[Pair],
    progress: Progress | None,
    say: Say,
) -> tuple[dict, ScoreShards] | None:
    """Return what `result.json` holds of the re-ranking of `lists`, and the scores, as above.

    `first`: the result of the dual encoder that made the lists. `pairs`: the swapped captions of the split.
    """
    blocks = listed_blocks(cross.dataset, lists, cfg.EVAL.BLOCK_PAIRS)
    store = score_together(cfg, cross, blocks, shards, progress, say)
    if process_number() > 0:
        return None
    weight = cfg.EVAL.RERANK_DUAL_WEIGHT
    to_choose_from = WEIGHTS if cfg.EVAL.SPLIT == "dev" else ()  # nothing is chosen on test
    found = rerank(cross.dataset, lists, blocks, store, first, weight, to_choose_from).as_dict()
    found |= {"dual_weight": weight, "checkpoint": cross.checkpoint}
    return found | measure_swapped_pairs(cfg, cross, pairs), store


def measure_swapped_pairs(cfg: CfgNode, cross: CrossEncoder, pairs: list[Pair]) -> dict:
    """Return the accuracies on swapped captions under `swapped`, or nothing where there are none."""
    if not pairs:
        return {}
    scores = cross_swapped_scores(cross.model, cross.dataset, pairs, cfg.EVAL.BATCH_TOKENS)
    return {"swapped": percent_told_apart(scores, pairs)}


def score_together(
    cfg: CfgNode,
    cross: CrossEncoder,
    blocks: PairBlocks,
    shards: Path,
    progress: Progress | None,
    say: Say,
) -> ScoreShards:
    """Return the scores of `blocks`, of which every process of the job has made its share.

    Says how many pairs are to be scored, and how long that takes, before it begins. The scores are whole in
    the first process alone.
    """
    identity = {
        "checkpoint": cross.checkpoint["sha256"],
        "model": cross.settings,
        "data": data_identity(cross.dataset),
        "pairs": pairs_identity(blocks),
    }
    store = ScoreShards(shards, identity, len(blocks))
    missing = store.missing()
    if world_size() > 1:
        start_process_group()
        _check_same_work(identity["pairs"])
        wait_for_all()  # everyone has seen the same blocks missing
    share = missing[process_number() :: world_size()]
    if share:
        left, mine = (sum(len(blocks.block(index)) for index in part) for part in (missing, share))
        speed = pairs_per_second(cross.model, cross.dataset, blocks, cfg.EVAL.BATCH_TOKENS)
        resumed = f", {blocks.num_pairs - left:,} are there from before" if left < blocks.num_pairs else ""
        shared = f" in each of {world_size()} processes" if world_size() > 1 else ""
        say(
            f"{blocks.num_pairs:,} pairs to score{resumed}: about {duration(mine / speed)} at "
            f"{speed:,.0f} pairs/s{shared}"
        )
        score_blocks(cross.model, cross.dataset, blocks, store, cfg.EVAL.BATCH_TOKENS, share, progress)
    if process_number() == 0:
        store.wait()
    return store


def _check_same_work(pairs: str) -> None:
    """Raise UserError unless the first process is to score the same `pairs`, a hexadecimal hash."""
    own = float(int(pairs[:12], 16))  # a number that a double holds exactly
    if broadcast_values([own])[0] != own:
        raise UserError(
            "the processes propose different short lists: their dual encoders round differently; give them "
            "equal machines and RUNTIME.THREADS, or use one process"
        )


def _announce_all(cfg: CfgNode, cross: CrossEncoder, blocks: PairBlocks, say: Say) -> None:
    k, sides = cfg.EVAL.RERANK_K, cross.dataset.num_images + cross.dataset.num_captions
    line = f"{cfg.MODEL.NAME} scores every image with every sentence: {blocks.num_pairs:,} pairs"
    if k * sides < blocks.num_pairs / 2:
        line += f"; behind a dual encoder (EVAL.RERANK_DIR), short lists of {k} need {k * sides:,} at most"
    say(line)


def _check_candidates(cfg: CfgNode, scores_path: str | Path | None) -> None:
    if cfg.EVAL.FOLDS > 1:
        raise UserError(
            f"EVAL.FOLDS: expected 1 with EVAL.EVAL_CAPTION_INDEX_FILE, whose lists may name any image, got "
            f"{cfg.EVAL.FOLDS}"
        )
    if scores_path:
        raise UserError(
            "--save_scores: expected EVAL.EVAL_CROSS_IMAGE=True, which scores all pairs, got the candidates "
            "of EVAL.EVAL_CAPTION_INDEX_FILE"
        )
