"""Build the evaluation that the configurations of one or several checkpoints ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.load import config_as_dict
from datasets.build.dual import build_dataset
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import Encoded, encode, rank_encoded
from engine.evaluation.ensemble import Ensemble, Tuning, check_same_pairs, normalized, tune_weights
from engine.evaluation.protocol import Progress, check_protocol, folds_of_images, measured_weights
from engine.evaluation.result import Result
from engine.evaluation.score_file import open_scores
from engine.evaluation.score_shards import ScoreShards
from engine.evaluation.swapped import Pair, percent_told_apart, rows_of, swapped_scores
from engine.parallel.processes import (
    all_or_none,
    broadcast_values,
    is_main,
    process_number,
    start_process_group,
    world_size,
)
from engine.ranking.short_lists import ShortLists
from engine.tasks.cross_evaluation import (
    Say,
    evaluate_cross_encoder,
    is_cross_encoder,
    load_reranker,
    rerank_lists,
)
from engine.tasks.loading import checkpoint_folder, load_trained, read_vocabulary, split_name, swapped_pairs


@dataclass(frozen=True)
class Evaluation:
    """What was measured, of which weights, and what was measured besides under a name of its own.

    `checkpoint`: `folder`, `sha256`, `model` and `step`; of several, a list `members` of these with `weight`
    and `config`, the keys that differ from the first configuration, and `tuning` where weights were searched.
    `further`: what `result.json` gains, such as `swapped` and `rerank`. `pair_scores`: what a cross encoder
    scored, to be deleted when the result is kept.
    """

    result: Result
    checkpoint: dict
    further: dict[str, dict]
    pair_scores: ScoreShards | None = None


@dataclass(frozen=True)
class _Member:
    """What a checkpoint made of a split: embeddings, and scores [2,P] of its swapped captions, if any.

    The first process alone has these scores.
    """

    encoded: Encoded
    checkpoint: dict
    swapped: np.ndarray | None


def evaluate_checkpoints(
    cfgs: Sequence[CfgNode],
    shards: Path,
    weights: Sequence[float] | None = None,
    tune: bool = False,
    scores_path: str | Path | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> Evaluation | None:
    """Measure the checkpoints of `cfgs`, several as an ensemble, by the EVAL section of the first.

    `weights`: positive, one a checkpoint, scaled to a sum of 1; none: equal ones, or with `tune` those with
    the highest MONITOR.BEST_METRIC on dev. `scores_path` takes all scores. Models are loaded one at a time.
    A cross encoder keeps the scores that it has made in the folder `shards`, and tells by `say` how long it
    will take. Processes of a launched job share the work, and all but the first get None.
    Raises UserError for members whose images or captions differ, and as `evaluate` does.
    """
    cfg = cfgs[0]
    _check_kinds(cfgs, scores_path)
    if is_cross_encoder(cfg):
        found = evaluate_cross_encoder(
            cfg, shards, lambda dataset: swapped_pairs(cfg, dataset), scores_path, progress, say
        )
        return Evaluation(*found) if found else None
    start_process_group()
    datasets = all_or_none(lambda: _open_members(cfgs, cfg.EVAL.SPLIT))
    dataset, pairs = datasets[0], swapped_pairs(cfg, datasets[0])
    check_protocol(dataset, split_name(cfg), cfg.EVAL.FOLDS)
    cross = load_reranker(cfg, dataset) if cfg.EVAL.RERANK_DIR else None
    lists = _short_lists(cfg, cross.dataset) if cross else None
    shared = shards.parent
    tuning = _tune_on_dev(cfgs, shared, progress) if tune else None
    origin = _tuned_where(cfg) if tuning else "given" if weights else "equal"
    weights = broadcast_values(tuning.weights if tuning else normalized(weights or [1] * len(cfgs)))
    with open_scores(scores_path if is_main() else None, dataset) as scores:
        encoded, checkpoints, swapped = _encode_weighted(cfgs, datasets, pairs, weights, shared, progress)
        if scores_path and not is_main():
            return None
        alone = scores_path or cross  # one process writes the scores; each makes all short lists
        result = rank_encoded(
            encoded,
            dataset,
            split_name(cfg),
            cfg.EVAL.FOLDS,
            cfg.EVAL.TIE_RULE,
            cfg.EVAL.BLOCK_SIZE,
            scores,
            progress,
            lists,
            (0, 1) if alone else (process_number(), world_size()),
        )
        if not (is_main() or cross):
            return None
    further = {} if swapped is None else {"swapped": percent_told_apart(swapped, pairs)}
    pair_scores = None
    if cross:
        reranked = rerank_lists(cfg, cross, lists, result, shards, pairs, progress, say)
        if reranked is None:
            return None
        further["rerank"], pair_scores = reranked
    if len(cfgs) == 1:
        return Evaluation(result, checkpoints[0], further, pair_scores)
    result = replace(result, protocol={**result.protocol, "weights": origin})
    return Evaluation(result, _describe(cfgs, checkpoints, weights, tuning), further, pair_scores)


def _check_kinds(cfgs: Sequence[CfgNode], scores_path: str | Path | None) -> None:
    """Raise UserError for a cross encoder where embeddings are needed."""
    cross = next((cfg for cfg in cfgs if is_cross_encoder(cfg)), None)
    if cross and len(cfgs) > 1:
        raise UserError(
            f"--checkpoints: expected dual encoders, whose similarities are averaged, got {cross.MODEL.NAME} "
            f"at {checkpoint_folder(cross)}: let it re-rank their short lists with EVAL.RERANK_DIR"
        )
    if cross and cross.EVAL.RERANK_DIR:
        raise UserError(
            f"EVAL.RERANK_DIR: expected with the run of a dual encoder, which proposes the short lists, got "
            f"it with a run of {cross.MODEL.NAME}: set it for a run of vsepp, vse or vsrn"
        )
    if cfgs[0].EVAL.RERANK_DIR and scores_path:
        raise UserError(
            "--save_scores: expected scores of one model, got EVAL.RERANK_DIR, which orders by those of two: "
            "leave out one of them"
        )


def _short_lists(cfg: CfgNode, dataset: PairDataset) -> ShortLists:
    image_fold = folds_of_images(dataset.num_images, cfg.EVAL.FOLDS)
    caption_fold = image_fold[dataset.caption_image]
    return ShortLists(cfg.EVAL.RERANK_K, image_fold, caption_fold, dataset.sentence_ids)


def _open_members(cfgs: Sequence[CfgNode], split: str) -> list[RetrievalDataset]:
    """Open EVAL's `split` as each configuration and vocabulary has it, and check that they agree."""
    folders = [checkpoint_folder(cfg) for cfg in cfgs]
    datasets = [
        build_dataset(cfg, split_name(cfg, split), read_vocabulary(folder), training=False)
        for cfg, folder in zip(cfgs, folders, strict=True)
    ]
    for dataset, folder in zip(datasets[1:], folders[1:], strict=True):
        check_same_pairs(datasets[0], str(folders[0]), dataset, str(folder))
    return datasets


def _encode_weighted(
    cfgs: Sequence[CfgNode],
    datasets: Sequence[RetrievalDataset],
    pairs: Sequence[Pair],
    weights: Sequence[float],
    shared: Path,
    progress: Progress | None,
) -> tuple[Encoded, list[dict], np.ndarray | None]:
    """Return the members' embeddings as one, where they come from, and the mean scores [2,P] of `pairs`."""
    members = _encode_members(cfgs, datasets, pairs, shared, progress)
    encoded = [member.encoded for member in members]
    swapped = [member.swapped for member in members if member.swapped is not None]
    return (
        encoded[0] if len(encoded) == 1 else Ensemble(encoded).weighted(weights),
        [member.checkpoint for member in members],
        np.tensordot(weights, np.stack(swapped), axes=1) if swapped else None,
    )


def _encode_members(
    cfgs: Sequence[CfgNode],
    datasets: Sequence[RetrievalDataset],
    pairs: Sequence[Pair],
    shared: Path,
    progress: Progress | None,
) -> list[_Member]:
    return [
        _encode_member(cfg, dataset, cfgs[0].EVAL.BATCH_SIZE, pairs, shared, progress)
        for cfg, dataset in zip(cfgs, datasets, strict=True)
    ]


def _encode_member(
    cfg: CfgNode,
    dataset: RetrievalDataset,
    batch_size: int,
    pairs: Sequence[Pair],
    shared: Path,
    progress: Progress | None,
) -> _Member:
    """Load a model, and let go of it when it has encoded the split."""
    model, vocabulary, state, folder = all_or_none(lambda: load_trained(cfg))
    encoded = encode(model, dataset, batch_size, progress, shared)
    swapped = None
    if pairs and is_main():
        swapped = swapped_scores(model, vocabulary, pairs, encoded.image[rows_of(dataset, pairs)])
    return _Member(encoded, measured_weights(state, folder), swapped)


def _tune_on_dev(cfgs: Sequence[CfgNode], shared: Path, progress: Progress | None) -> Tuning | None:
    """Search the weights as validations in training measure: on all of the dev split, without folds.

    All processes encode, the first searches; the others get None.
    """
    cfg = cfgs[0]
    datasets = all_or_none(lambda: _open_members(cfgs, "dev"))
    check_protocol(datasets[0], split_name(cfg, "dev"), folds=1)
    members = _encode_members(cfgs, datasets, [], shared, progress)
    if not is_main():
        return None
    ensemble = Ensemble([member.encoded for member in members])
    del members

    def score(weights: list[float]) -> float:
        result = rank_encoded(
            ensemble.weighted(weights),
            datasets[0],
            split_name(cfg, "dev"),
            tie_rule=cfg.EVAL.TIE_RULE,
            block_size=cfg.EVAL.BLOCK_SIZE,
            progress=progress,
        )
        return result.metrics[cfg.MONITOR.BEST_METRIC]

    return tune_weights(score, len(cfgs))


def _tuned_where(cfg: CfgNode) -> str:
    same = ", the split that is evaluated" if cfg.EVAL.SPLIT == "dev" else ""
    return f"tuned on {split_name(cfg, 'dev')}{same}"


def _describe(
    cfgs: Sequence[CfgNode], checkpoints: Sequence[dict], weights: Sequence[float], tuning: Tuning | None
) -> dict:
    """Return the `checkpoint` of an ensemble's Evaluation."""
    configs = [config_as_dict(cfg) for cfg in cfgs]
    checkpoint: dict = {
        "members": [
            {"weight": weight, **member, "config": _differences(configs[0], config)}
            for weight, member, config in zip(weights, checkpoints, configs, strict=True)
        ]
    }
    if tuning:
        checkpoint["tuning"] = {
            "split": split_name(cfgs[0], "dev"),
            "metric": cfgs[0].MONITOR.BEST_METRIC,
            "equal": tuning.equal,
            "tuned": tuning.tuned,
            "evaluations": tuning.evaluations,
        }
    return checkpoint


def _differences(first: dict[str, dict], config: dict[str, dict]) -> dict:
    """Return the values of `config` that `first` does not have, under their full keys."""
    return {
        f"{section}.{name}": value
        for section, keys in config.items()
        for name, value in keys.items()
        if first[section][name] != value
    }
