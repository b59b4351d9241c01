"""Score pairs with a trained cross encoder: processes share the work, and a restart resumes it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from paddle import nn
from yacs.config import CfgNode

from config.errors import UserError
from config.load import config_as_dict
from config.progress import duration
from datasets.build.cross import build_candidates, open_pair_split, pair_dataset_of
from datasets.captions.swapped import SwappedPair
from datasets.pair_dataset import PairDataset
from datasets.pairs import PairBlocks, Pairs
from engine.evaluation.pair_scoring import data_identity, pairs_identity, pairs_per_second, score_blocks
from engine.evaluation.scores.shards import ScoreShards
from engine.evaluation.swapped import cross_swapped_scores, swapped_accuracy
from engine.parallel.processes import (
    broadcast_values,
    process_number,
    wait_for_all,
    world_size,
)
from engine.tasks.loading import load_trained, split_name
from engine.tasks.task import EvaluationOptions


@dataclass(frozen=True)
class CrossEncoder:
    """A trained cross encoder and the split that it is to score.

    `candidates` are the only pairs to score, if EVAL.EVAL_CAPTION_INDEX_FILE lists them. `checkpoint` is that
    of `Trained`; `settings` is a hash of the model's part of the configuration.
    """

    model: nn.Layer
    dataset: PairDataset
    candidates: Pairs | None
    checkpoint: dict
    settings: str


def open_cross_encoder(cfg: CfgNode) -> CrossEncoder:
    """Return the trained cross encoder that `cfg` names, with EVAL.SPLIT."""
    split = open_pair_split(cfg, split_name(cfg), training=False)
    trained = load_trained(cfg)
    config = config_as_dict(cfg)
    settings = json.dumps([config["MODEL"], config["INPUT"], config["OUTPUT"]["NUM_LABELS"]], sort_keys=True)
    return CrossEncoder(
        trained.model,
        pair_dataset_of(cfg, split, trained.words),
        build_candidates(cfg, split),
        trained.checkpoint,
        hashlib.sha256(settings.encode()).hexdigest(),
    )


def score_together(
    cfg: CfgNode, cross: CrossEncoder, blocks: PairBlocks, options: EvaluationOptions
) -> ScoreShards:
    """Score `blocks`, each process of the job a part of them, and return the store that holds the scores.

    First prints how many pairs there are to score, and about how long that takes. Process 0 alone waits until
    the store is complete.
    """
    identity = {
        "checkpoint": cross.checkpoint["sha256"],
        "model": cross.settings,
        "data": data_identity(cross.dataset),
        "pairs": pairs_identity(blocks),
    }
    store = ScoreShards(options.shards, identity, len(blocks))
    missing = store.missing()
    if world_size() > 1:
        _check_same_work(identity["pairs"])
        wait_for_all()  # no process writes a block before all have listed the missing ones
    share = missing[process_number() :: world_size()]
    if share:
        left, mine = (sum(len(blocks.block(index)) for index in part) for part in (missing, share))
        speed = pairs_per_second(cross.model, cross.dataset, blocks, cfg.EVAL.BATCH_TOKENS)
        resumed = f", {blocks.num_pairs - left:,} are there from before" if left < blocks.num_pairs else ""
        shared = f" in each of {world_size()} processes" if world_size() > 1 else ""
        options.say(
            f"{blocks.num_pairs:,} pairs to score{resumed}: about {duration(mine / speed)} at "
            f"{speed:,.0f} pairs/s{shared}"
        )
        score_blocks(cross.model, cross.dataset, blocks, store, cfg.EVAL.BATCH_TOKENS, share, options.show)
    if process_number() == 0:
        store.wait()
    return store


def measure_swapped_pairs(cfg: CfgNode, cross: CrossEncoder, pairs: Sequence[SwappedPair]) -> dict:
    """Return the accuracy on swapped captions under `swapped`; an empty dict without such captions."""
    if not pairs:
        return {}
    scores = cross_swapped_scores(cross.model, cross.dataset, pairs, cfg.EVAL.BATCH_TOKENS)
    return {"swapped": swapped_accuracy(scores, pairs)}


def _check_same_work(pairs: str) -> None:
    """Raise UserError unless process 0 has the same hash of its `pairs`, in hexadecimal, as this process."""
    own = float(int(pairs[:12], 16))  # a number that a double holds exactly
    if broadcast_values([own])[0] != own:
        raise UserError(
            "the processes propose different short lists: their dual encoders round differently; give them "
            "equal machines and RUNTIME.THREADS, or use one process"
        )
