"""The members of an ensemble: open the split for each, choose their weights, and encode with each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from yacs.config import CfgNode

from config.load import config_as_dict
from datasets.build.dual import build_dataset
from datasets.build.words import load_words
from datasets.captions.swapped import SwappedPair
from datasets.retrieval_dataset import RetrievalDataset
from engine.evaluation.dual import Encoded, encode, rank_encoded
from engine.evaluation.ensemble import Ensemble, Tuning, check_same_pairs, normalized, tune_weights
from engine.evaluation.protocol import check_protocol
from engine.evaluation.query_bank import normalised
from engine.evaluation.swapped import rows_of, swapped_scores
from engine.parallel.processes import all_or_none, broadcast_values, is_main
from engine.runs.checkpoint import resolve_checkpoint
from engine.tasks.loading import checkpoint_folder, load_trained, split_name
from engine.tasks.task import EvaluationOptions


@dataclass(frozen=True)
class Weighting:
    """The weights of an ensemble's members, where they come from, and the search that found them, if any."""

    weights: list[float]
    origin: str
    tuning: Tuning | None = None


@dataclass(frozen=True)
class _Member:
    """A split encoded by one checkpoint, and its scores [2,P] of the split's swapped captions, if any."""

    encoded: Encoded
    checkpoint: dict
    swapped: np.ndarray | None


def open_members(cfgs: Sequence[CfgNode], split: str) -> list[RetrievalDataset]:
    """Return `split`, a value of EVAL.SPLIT, as each configuration and its vocabulary read it.

    Raises UserError if the images or captions differ.
    """
    folders = [checkpoint_folder(cfg) for cfg in cfgs]
    datasets = [
        build_dataset(
            cfg, split_name(cfg, split), load_words(cfg, resolve_checkpoint(folder)), training=False
        )
        for cfg, folder in zip(cfgs, folders, strict=True)
    ]
    for dataset, folder in zip(datasets[1:], folders[1:], strict=True):
        check_same_pairs(datasets[0], str(folders[0]), dataset, str(folder))
    return datasets


def choose_weights(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> Weighting:
    """Return the weights that were given, those that are best on dev, or equal ones.

    All processes call this: they share the encoding, and process 0 searches.
    """
    tuning = _tune_on_dev(cfgs, options) if options.tune else None
    weights = tuning.weights if tuning else normalized(options.weights or [1] * len(cfgs))
    same = ", the split that is evaluated" if cfgs[0].EVAL.SPLIT == "dev" else ""
    tuned = f"tuned on {split_name(cfgs[0], 'dev')}{same}"
    origin = tuned if options.tune else "given" if options.weights else "equal"
    return Weighting(broadcast_values(weights), origin, tuning)


def encode_members(
    cfgs: Sequence[CfgNode],
    datasets: Sequence[RetrievalDataset],
    pairs: Sequence[SwappedPair],
    weights: Sequence[float],
    options: EvaluationOptions,
) -> tuple[Encoded, list[dict], np.ndarray | None]:
    """Return the members' embeddings as one, their checkpoints, and the mean scores [2,P] of `pairs`."""
    members = _encode_all(cfgs, datasets, pairs, options)
    encoded = [member.encoded for member in members]
    swapped = [member.swapped for member in members if member.swapped is not None]
    return (
        encoded[0] if len(encoded) == 1 else Ensemble(encoded).weighted(weights),
        [member.checkpoint for member in members],
        np.tensordot(weights, np.stack(swapped), axes=1) if swapped else None,
    )


def normalised_members(
    cfgs: Sequence[CfgNode], encoded: Encoded, weights: Sequence[float], options: EvaluationOptions
) -> tuple[Encoded, dict]:
    """Return the embeddings as EVAL.QUERY_BANK of the first member normalises them, and a protocol's entry.

    Without a bank they stay as they are. All processes call this and share the encoding of the bank.
    """
    cfg = cfgs[0]
    if not cfg.EVAL.QUERY_BANK:
        return encoded, {}
    datasets = all_or_none(lambda: open_members(cfgs, cfg.EVAL.QUERY_BANK))
    bank, _, _ = encode_members(cfgs, datasets, [], weights, options)
    split = split_name(cfg, cfg.EVAL.QUERY_BANK)
    return normalised(encoded, bank, split, cfg.EVAL.QUERY_BANK_TEMPERATURE)


def ensemble_checkpoint(cfgs: Sequence[CfgNode], checkpoints: Sequence[dict], weighting: Weighting) -> dict:
    """Return the `checkpoint` of an ensemble (see `Measured`)."""
    configs = [config_as_dict(cfg) for cfg in cfgs]
    checkpoint: dict = {
        "members": [
            {"weight": weight, **member, "config": _differences(configs[0], config)}
            for weight, member, config in zip(weighting.weights, checkpoints, configs, strict=True)
        ]
    }
    if weighting.tuning:
        checkpoint["tuning"] = {
            "split": split_name(cfgs[0], "dev"),
            "metric": cfgs[0].MONITOR.BEST_METRIC,
            "equal": weighting.tuning.equal,
            "tuned": weighting.tuning.tuned,
            "evaluations": weighting.tuning.evaluations,
        }
    return checkpoint


def _encode_all(
    cfgs: Sequence[CfgNode],
    datasets: Sequence[RetrievalDataset],
    pairs: Sequence[SwappedPair],
    options: EvaluationOptions,
) -> list[_Member]:
    """Encode the split with each member; only one model is in memory at a time."""
    return [
        _encode(cfg, dataset, cfgs[0].EVAL.BATCH_SIZE, pairs, options)
        for cfg, dataset in zip(cfgs, datasets, strict=True)
    ]


def _encode(
    cfg: CfgNode,
    dataset: RetrievalDataset,
    batch_size: int,
    pairs: Sequence[SwappedPair],
    options: EvaluationOptions,
) -> _Member:
    trained = all_or_none(lambda: load_trained(cfg))
    encoded = encode(trained.model, dataset, batch_size, options.show, options.shards.parent)
    swapped = None
    if pairs and is_main():
        swapped = swapped_scores(trained.model, dataset, pairs, encoded.image[rows_of(dataset, pairs)])
    return _Member(encoded, trained.checkpoint, swapped)


def _tune_on_dev(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> Tuning | None:
    """Search the weights that are best on the whole dev split, without folds, as in a validation.

    All processes encode; process 0 searches, and the others return None.
    """
    cfg = cfgs[0]
    datasets = all_or_none(lambda: open_members(cfgs, "dev"))
    check_protocol(datasets[0], split_name(cfg, "dev"), folds=1)
    members = _encode_all(cfgs, datasets, [], options)
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
        )
        return result.metrics[cfg.MONITOR.BEST_METRIC]

    return tune_weights(score, len(cfgs))


def _differences(first: dict[str, dict], config: dict[str, dict]) -> dict:
    """Return the values of `config` that differ from those of `first`, by full key."""
    return {
        f"{section}.{name}": value
        for section, keys in config.items()
        for name, value in keys.items()
        if first[section][name] != value
    }
