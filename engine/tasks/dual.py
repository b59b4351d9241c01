"""Dual encoders: train them, load them, measure one or several, and report on a run."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.progress import ShowProgress
from datasets.build.dual import build_dataset, build_sampler, build_vocabulary
from datasets.build.words import load_words
from datasets.captions.swapped import swapped_pairs
from datasets.prefetch import prefetched
from datasets.words.unknown_words import lines_of_unknown
from engine.evaluation.dual import encode, evaluate, rank_encoded
from engine.evaluation.protocol import check_protocol
from engine.evaluation.query_bank import normalised
from engine.evaluation.result import format_measured, read_reranked
from engine.evaluation.scores.file import open_scores
from engine.evaluation.swapped import rows_of, swapped_accuracy, swapped_scores
from engine.parallel.processes import all_or_none, is_main, process_number, world_size
from engine.runs.checkpoint import resolve_checkpoint, start_from
from engine.runs.run_folder import RunFolder, read_log
from engine.tasks.certificates import behind, certificate_entry, certified, keeper_of, names_of
from engine.tasks.ensemble import (
    choose_weights,
    encode_members,
    ensemble_checkpoint,
    normalised_members,
    open_members,
)
from engine.tasks.loading import checkpoint_folder, load_trained, run_folder, split_name
from engine.tasks.reranking import load_reranker, rerank_lists, short_lists_of
from engine.tasks.task import Batches, EvaluationOptions, Measured, ReportedRun, Start, Task, Trained
from engine.weights.cnn_weights import start_cnn
from models.build import build_loss, build_model


def training(cfg: CfgNode, start: Start) -> Task:
    """Return the task of a dual encoder: in a batch of pairs, each caption competes for each image."""
    origin = start.resume_from or cfg.PRETRAINED.DIR
    words = load_words(cfg, resolve_checkpoint(origin)) if origin else build_vocabulary(cfg, start.say)
    data = build_dataset(cfg, cfg.DATASET.TRAIN, words, training=True)
    dev = build_dataset(cfg, cfg.DATASET.DEV, words, training=False)
    if start.checks_features:
        data.check_features()
        dev.check_features()
    moments = data.feature_moments() if cfg.INPUT.STANDARDIZE and not origin else (None, None)
    model = build_model(cfg, len(words), *moments)
    freeze = start_cnn(model, "" if origin else cfg.MODEL.CNN_WEIGHTS, cfg.MODEL.CNN_FREEZE_EPOCHS)
    if origin and not start.resume_from:
        start.say(start_from(origin, model, cfg.MODEL.NAME))
    sampler = build_sampler(cfg, data, start.rank, start.world_size)

    def batches_of(epoch: int, first: int) -> Batches:
        freeze(epoch)
        data.start_epoch(epoch)
        batches = sampler.batches(epoch)
        return len(batches), prefetched(data.batch, batches, cfg.MISC.NUM_WORKERS, first)

    def validate(progress: ShowProgress) -> dict[str, float]:
        return evaluate(
            model,
            dev,
            cfg.DATASET.DEV,
            tie_rule=cfg.EVAL.TIE_RULE,
            batch_size=cfg.EVAL.BATCH_SIZE,
            block_size=cfg.EVAL.BLOCK_SIZE,
            progress=progress,
            shared=run_folder(cfg).path,
        ).metrics

    return Task(
        model=model,
        loss=build_loss(cfg),
        words=words,
        unit="words",
        training=data,
        dev=dev,
        samples=data.num_captions,
        batches_of=batches_of,
        validate=validate,
        resume_within_epoch=sampler.resume_within_epoch,
    )


def load(cfg: CfgNode) -> Trained:
    """Return the trained dual encoder that `cfg` names; raise UserError for another kind of model."""
    if FAMILIES[cfg.MODEL.NAME].kind != "dual":
        remedy = "name the run of a dual encoder"
        if FAMILIES[cfg.MODEL.NAME].kind == "cross":
            remedy += f", and let this one re-rank with EVAL.RERANK_DIR={checkpoint_folder(cfg)}"
        raise UserError(
            "MODEL.NAME: expected a dual encoder, which embeds images and sentences, got "
            f"{cfg.MODEL.NAME}: {remedy}"
        )
    return load_trained(cfg)


def measure(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> Measured | None:
    """Measure the dual encoder of `cfgs`, or an ensemble of several, as EVAL of the first one says.

    With EVAL.QUERY_BANK, a split normalises the scores. With EVAL.RERANK_DIR, a cross encoder then re-ranks
    the short lists. Models are loaded one at a time. Processes of a launched job share the work; all but the
    first return None. Raises UserError for members whose images or captions differ, and whatever
    `engine.evaluation.dual.evaluate` raises.
    """
    cfg = cfgs[0]
    _check_members(cfgs, options)
    datasets = all_or_none(lambda: open_members(cfgs, cfg.EVAL.SPLIT))
    dataset, split = datasets[0], split_name(cfg)
    pairs = swapped_pairs(cfg.DATASET.DATA_DIR, dataset.name)
    check_protocol(dataset, split, cfg.EVAL.FOLDS)
    cross = load_reranker(cfg, dataset) if cfg.EVAL.RERANK_DIR else None
    lists = short_lists_of(cfg, cross.dataset) if cross else None
    keeper = keeper_of(cfg, dataset)
    weighting = choose_weights(cfgs, options)
    with open_scores(options.scores_path if is_main() else None, dataset) as scores:
        encoded, checkpoints, swapped = encode_members(cfgs, datasets, pairs, weighting.weights, options)
        encoded, bank = normalised_members(cfgs, encoded, weighting.weights, options)
        if options.scores_path and not is_main():
            return None
        # The one process that writes all scores needs all tiles, and so does each that fills short lists.
        needs_all = options.scores_path or cross
        result = rank_encoded(
            encoded,
            dataset,
            split,
            cfg.EVAL.FOLDS,
            cfg.EVAL.TIE_RULE,
            cfg.EVAL.BLOCK_SIZE,
            scores,
            options.show,
            [each for each in (lists, keeper) if each is not None],
            (0, 1) if needs_all else (process_number(), world_size()),
        )
    kept = keeper.close(share=not needs_all) if keeper else None
    further = {"swapped": swapped_accuracy(swapped, pairs)} if pairs and is_main() else {}
    pair_scores = reranked = None
    if cross:
        further["rerank"], pair_scores, reranked = rerank_lists(cfg, cross, lists, result, pairs, options)
    if not is_main():
        return None
    result = replace(result, protocol=result.protocol | bank)
    checkpoint = checkpoints[0]
    if len(cfgs) > 1:
        result = replace(result, protocol=result.protocol | {"weights": weighting.origin})
        checkpoint = ensemble_checkpoint(cfgs, checkpoints, weighting)
    certificate = certified(cfg, result.sides)
    lines = [
        *lines_of_unknown(dataset.name, dataset.unknown_share()),
        *format_measured(result, checkpoint, further, certificate),
    ]
    further |= certificate_entry(certificate)
    return Measured(result, checkpoint, lines, further, pair_scores, names_of(dataset), kept, reranked)


def reports(cfg: CfgNode) -> ReportedRun:
    """Measure the best checkpoint of a run on its EVAL.SPLIT, and return what a report shows."""
    trained = load(cfg)
    dataset = build_dataset(cfg, split_name(cfg), trained.words, training=False)
    check_protocol(dataset, split_name(cfg), cfg.EVAL.FOLDS)
    encoded = encode(trained.model, dataset, cfg.EVAL.BATCH_SIZE)
    ranked, bank = encoded, {}
    if cfg.EVAL.QUERY_BANK:
        split = split_name(cfg, cfg.EVAL.QUERY_BANK)
        queries = build_dataset(cfg, split, trained.words, training=False)
        ranked, bank = normalised(
            encoded,
            encode(trained.model, queries, cfg.EVAL.BATCH_SIZE),
            split,
            cfg.EVAL.QUERY_BANK_TEMPERATURE,
        )
    result = rank_encoded(
        ranked, dataset, split_name(cfg), cfg.EVAL.FOLDS, cfg.EVAL.TIE_RULE, cfg.EVAL.BLOCK_SIZE
    )
    result = replace(result, protocol=result.protocol | bank)
    pairs, swapped = swapped_pairs(cfg.DATASET.DATA_DIR, dataset.name), {}
    if pairs:
        images = encoded.image[rows_of(dataset, pairs)]
        swapped = swapped_accuracy(swapped_scores(trained.model, dataset, pairs, images), pairs)
    folder = RunFolder(checkpoint_folder(cfg).parent)
    measured = folder.path / f"eval_{cfg.EVAL.SPLIT}" / "result.json"
    return ReportedRun(
        trained.model,
        trained.checkpoint,
        dataset,
        result,
        read_log(folder.log_file),
        image_embeddings=np.asarray(encoded.image),
        swapped=swapped,
        rerank=read_reranked(measured, trained.checkpoint["sha256"], result.protocol),
        **behind(cfg, trained.checkpoint, result.sides),
    )


def _check_members(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> None:
    """Raise UserError for a member that is no dual encoder, and for --save_scores with EVAL.RERANK_DIR."""
    other = next((cfg for cfg in cfgs if FAMILIES[cfg.MODEL.NAME].kind != "dual"), None)
    if other:
        is_cross = FAMILIES[other.MODEL.NAME].kind == "cross"
        remedy = "let it re-rank their short lists with EVAL.RERANK_DIR" if is_cross else "leave it out"
        raise UserError(
            f"--checkpoints: expected dual encoders, whose similarities are averaged, got {other.MODEL.NAME} "
            f"at {checkpoint_folder(other)}: {remedy}"
        )
    if cfgs[0].EVAL.RERANK_DIR and options.scores_path:
        raise UserError(
            "--save_scores: expected scores of one model, got EVAL.RERANK_DIR, which orders by those of two: "
            "leave out one of them"
        )
