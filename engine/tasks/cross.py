"""Cross encoders: train them, load them, and measure them by the score of every pair."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from config.errors import UserError
from config.progress import ShowProgress
from datasets.build.cross import (
    PairSplit,
    build_candidates,
    build_pair_sampler,
    build_word_piece,
    open_pair_split,
    pair_dataset_of,
)
from datasets.build.words import load_words
from datasets.captions.swapped import swapped_pairs
from datasets.pair_dataset import PairDataset
from datasets.pairs import PairBlocks, Pairs
from datasets.prefetch import prefetched
from datasets.samplers import negatives as negative_pairs
from datasets.words.masked_words import add_masked_pairs
from datasets.words.unknown_words import lines_of_unknown
from datasets.words.wordpiece import WordPiece
from engine.evaluation.cross import (
    candidate_blocks,
    cross_blocks,
    evaluate_candidates,
    evaluate_cross,
    rank_candidates,
    rank_cross,
)
from engine.evaluation.protocol import check_protocol
from engine.evaluation.result import format_measured
from engine.parallel.processes import is_main
from engine.runs.checkpoint import is_checkpoint, resolve_checkpoint, start_from
from engine.tasks import negatives
from engine.tasks.certificates import certificate_entry, certified, keeper_of, names_of
from engine.tasks.loading import checkpoint_folder, load_trained, run_folder, split_name
from engine.tasks.pair_scores import CrossEncoder, measure_swapped_pairs, open_cross_encoder, score_together
from engine.tasks.task import Batches, EvaluationOptions, Measured, ReportedRun, Start, Task, Trained
from engine.weights.pretrained import PretrainedFolder, load_pretrained, open_pretrained
from models.build import bert_shape, build_loss, build_model


def training(cfg: CfgNode, start: Start) -> Task:
    """Return the task of a cross encoder: a batch holds pairs that match, and a negative pair for each."""
    split = open_pair_split(cfg, cfg.DATASET.TRAIN, training=True)
    checkpoint, pretrained = _origin(cfg, start)
    words = _first_words(cfg, start, split, checkpoint, pretrained)
    data = pair_dataset_of(cfg, split, words)
    dev_split = open_pair_split(cfg, cfg.DATASET.DEV, training=False, num_images=cfg.MONITOR.DEV_IMAGES)
    dev = pair_dataset_of(cfg, dev_split, words)
    candidates = build_candidates(cfg, dev_split)
    if start.checks_features:
        data.check_features()
        dev.check_features()
    model = _first_model(cfg, start, data, checkpoint, pretrained)
    sampler = build_pair_sampler(cfg, data, _hard_negatives(cfg, data), start.rank, start.world_size)

    def batches_of(epoch: int, first: int) -> Batches:
        batches = list(enumerate(sampler.batches(epoch)))
        hardens = cfg.NEGATIVES.KIND == "batch" and epoch >= cfg.NEGATIVES.RANDOM_EPOCHS

        def make(numbered: tuple[int, Pairs]) -> dict[str, np.ndarray]:
            number, pairs = numbered
            if hardens:
                random = np.random.default_rng([cfg.MISC.SEED, epoch, number, start.rank])
                share, tokens = cfg.NEGATIVES.SHARE, cfg.EVAL.BATCH_TOKENS
                pairs = negatives.in_batch(model, data, pairs, share, random, tokens)
            batch = data.batch(pairs)
            if cfg.LOSS.WORD_WEIGHT:
                random = np.random.default_rng([cfg.MISC.SEED, epoch, number, start.rank, 1])
                batch = add_masked_pairs(batch, cfg.LOSS.WORD_SHARE, words.mask_id, random)
            return batch

        return len(batches), prefetched(make, batches, cfg.MISC.NUM_WORKERS, first)

    return Task(
        model=model,
        loss=build_loss(cfg),
        words=words,
        unit="words",
        training=data,
        dev=dev,
        samples=data.num_captions,
        batches_of=batches_of,
        validate=_validation(cfg, model, dev, candidates),
        resume_within_epoch=sampler.resume_within_epoch,
    )


def load(cfg: CfgNode) -> Trained:
    """Return the trained cross encoder that `cfg` names."""
    return load_trained(cfg)


def measure(cfgs: Sequence[CfgNode], options: EvaluationOptions) -> Measured | None:
    """Measure the cross encoder of `cfgs` by the scores of all pairs of its split, or of listed candidates.

    Scores are stored in the folder `options.shards` as they are made, so that an evaluation that was killed
    resumes where it stopped. Processes of a launched job share the work; all but the first return None.
    """
    cfg = cfgs[0]
    _check_alone(cfgs)
    cross = open_cross_encoder(cfg)
    dataset, split = cross.dataset, split_name(cfg)
    check_protocol(dataset, split, cfg.EVAL.FOLDS)
    blocks = _blocks(cfg, cross, options)
    store = score_together(cfg, cross, blocks, options)
    if not is_main():
        return None
    keeper = keeper_of(cfg, dataset) if cross.candidates is None else None
    if cross.candidates is None:
        result = rank_cross(
            blocks, store, dataset, split, cfg.EVAL.FOLDS, cfg.EVAL.TIE_RULE, options.scores_path, keeper
        )
    else:
        result = rank_candidates(blocks, store, dataset, cross.candidates, split, cfg.EVAL.TIE_RULE)
    further = measure_swapped_pairs(cfg, cross, swapped_pairs(cfg.DATASET.DATA_DIR, dataset.name))
    certificate = certified(cfg, result.sides)
    lines = [
        *lines_of_unknown(dataset.name, dataset.unknown_share()),
        *format_measured(result, cross.checkpoint, further, certificate),
    ]
    further |= certificate_entry(certificate)
    kept = keeper.close() if keeper else None
    return Measured(result, cross.checkpoint, lines, further, store, names_of(dataset), kept)


def reports(cfg: CfgNode) -> ReportedRun:
    """Raise UserError: a report shows search results, and a cross encoder has no embeddings to search."""
    raise UserError(
        f"MODEL.NAME: expected a dual encoder, which embeds images and sentences, got {cfg.MODEL.NAME}: name "
        f"the run of one that was evaluated with EVAL.RERANK_DIR={checkpoint_folder(cfg)}"
    )


def _check_alone(cfgs: Sequence[CfgNode]) -> None:
    """Raise UserError for several checkpoints, and for a cross encoder that is to re-rank another one."""
    name = cfgs[0].MODEL.NAME
    if len(cfgs) > 1:
        raise UserError(
            f"--checkpoints: expected dual encoders, whose similarities are averaged, got {name} at "
            f"{checkpoint_folder(cfgs[0])}: let it re-rank their short lists with EVAL.RERANK_DIR"
        )
    if cfgs[0].EVAL.RERANK_DIR:
        raise UserError(
            f"EVAL.RERANK_DIR: expected with the run of a dual encoder, which proposes the short lists, got "
            f"it with a run of {name}: set it for a run of vsepp, vse or vsrn"
        )


def _blocks(cfg: CfgNode, cross: CrossEncoder, options: EvaluationOptions) -> PairBlocks:
    """Return the pairs to score; print their number if they are all pairs of the split."""
    if cross.candidates is not None:
        _check_candidates(cfg, options)
        return candidate_blocks(cross.dataset, cross.candidates, cfg.EVAL.BLOCK_PAIRS)
    # A file of all scores also needs the pairs across folds, which no rank depends on.
    folds = 1 if options.scores_path else cfg.EVAL.FOLDS
    blocks = cross_blocks(cross.dataset, folds, cfg.EVAL.BLOCK_PAIRS)
    k, sides = cfg.EVAL.RERANK_K, cross.dataset.num_images + cross.dataset.num_captions
    line = f"{cfg.MODEL.NAME} scores every image with every sentence: {blocks.num_pairs:,} pairs"
    if k * sides < blocks.num_pairs / 2:
        line += f"; behind a dual encoder (EVAL.RERANK_DIR), short lists of {k} need {k * sides:,} at most"
    options.say(line)
    return blocks


def _check_candidates(cfg: CfgNode, options: EvaluationOptions) -> None:
    if cfg.EVAL.FOLDS > 1:
        raise UserError(
            f"EVAL.FOLDS: expected 1 with EVAL.EVAL_CAPTION_INDEX_FILE, whose lists may name any image, got "
            f"{cfg.EVAL.FOLDS}"
        )
    if options.scores_path:
        raise UserError(
            "--save_scores: expected EVAL.EVAL_CROSS_IMAGE=True, which scores all pairs, got the candidates "
            "of EVAL.EVAL_CAPTION_INDEX_FILE"
        )


def _origin(cfg: CfgNode, start: Start) -> tuple[Path | None, PretrainedFolder | None]:
    """Return the checkpoint or the pretrained folder of the initial weights and the vocabulary, if any."""
    if start.resume_from or not cfg.PRETRAINED.DIR:
        return start.resume_from, None
    folder = Path(cfg.PRETRAINED.DIR)
    return (folder, None) if is_checkpoint(folder) else (None, open_pretrained(folder))


def _first_words(
    cfg: CfgNode,
    start: Start,
    split: PairSplit,
    checkpoint: Path | None,
    pretrained: PretrainedFolder | None,
) -> WordPiece:
    if checkpoint:
        return load_words(cfg, resolve_checkpoint(checkpoint))
    if pretrained:
        return WordPiece.load(pretrained.path / WordPiece.file_name, cfg.INPUT.DO_LOWER_CASE)
    return build_word_piece(cfg, split, start.say)


def _first_model(
    cfg: CfgNode,
    start: Start,
    training: PairDataset,
    checkpoint: Path | None,
    pretrained: PretrainedFolder | None,
) -> nn.Layer:
    """Return the model with its initial weights; those of a resumed run are loaded later."""
    moments = training.feature_moments() if cfg.INPUT.STANDARDIZE and not checkpoint else (None, None)
    vocab_size = len(training.word_piece)
    if pretrained:
        pretrained.check_shape(bert_shape(cfg, vocab_size))
    model = build_model(cfg, vocab_size, *moments)
    if pretrained:
        fresh = load_pretrained(model, pretrained)
        start.say(f"weights: {pretrained.path}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    elif checkpoint and not start.resume_from:
        start.say(start_from(checkpoint, model, cfg.MODEL.NAME))
    return model


def _hard_negatives(cfg: CfgNode, data: PairDataset) -> negative_pairs.HardNegatives | None:
    if cfg.NEGATIVES.KIND == "neighbours":
        return negative_pairs.neighbours(data, cfg.NEGATIVES.NEIGHBOURS)
    if cfg.NEGATIVES.KIND == "mined":
        return negatives.mined(cfg.NEGATIVES.DUAL, data, cfg.NEGATIVES.TOP, run_folder(cfg).path)
    return None


def _validation(
    cfg: CfgNode, model: nn.Layer, dev: PairDataset, candidates: Pairs | None
) -> Callable[[ShowProgress], dict[str, float]]:
    def validate(progress: ShowProgress) -> dict[str, float]:
        split, rule = cfg.DATASET.DEV, cfg.EVAL.TIE_RULE
        sizes = cfg.EVAL.BATCH_TOKENS, cfg.EVAL.BLOCK_PAIRS
        if candidates is None:
            return evaluate_cross(model, dev, split, 1, rule, *sizes, progress).metrics
        return evaluate_candidates(model, dev, candidates, split, rule, *sizes, progress).metrics

    return validate
