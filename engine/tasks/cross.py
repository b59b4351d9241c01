"""Build what a cross encoder learns from: pairs of images and captions, right and wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from datasets.build.cross import (
    PairSplit,
    build_candidates,
    build_pair_sampler,
    build_word_piece,
    open_pair_split,
    pair_dataset_of,
)
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.prefetch import prefetched
from datasets.samplers.pairs import HardNegatives, neighbour_negatives
from datasets.words.masked_words import add_masked_pairs
from datasets.words.wordpiece import WordPiece
from engine.evaluation.cross import evaluate_candidates, evaluate_cross
from engine.evaluation.protocol import Progress
from engine.runs.checkpoint import is_checkpoint, load_model
from engine.tasks.dual import Batches, Start, Task
from engine.tasks.hard_negatives import harden
from engine.tasks.loading import read_word_piece, run_folder
from engine.tasks.mined_negatives import mine_with_dual
from engine.weights.pretrained import PretrainedFolder, load_pretrained, open_pretrained
from models.build import bert_shape, build_model


def pair_task(cfg: CfgNode, start: Start) -> Task:
    """Return the task of a cross encoder: each caption with its image, and a wrong pair beside it."""
    split = open_pair_split(cfg, cfg.DATASET.TRAIN, training=True)
    checkpoint, pretrained = _origin(cfg, start)
    word_piece = _word_piece(cfg, split, checkpoint, pretrained)
    training = pair_dataset_of(cfg, split, word_piece)
    dev_split = open_pair_split(cfg, cfg.DATASET.DEV, training=False, num_images=cfg.MONITOR.DEV_IMAGES)
    dev = pair_dataset_of(cfg, dev_split, word_piece)
    candidates = build_candidates(cfg, dev_split)
    if start.checks_features:
        training.check_features()
        dev.check_features()
    model = _first_model(cfg, start, training, checkpoint, pretrained)
    hard = _hard_negatives(cfg, training, start)
    sampler = build_pair_sampler(cfg, training, hard, start.rank, start.world_size)

    def batches_of(epoch: int, first: int) -> Batches:
        batches = list(enumerate(sampler.batches(epoch)))
        hardens = cfg.NEGATIVES.KIND == "batch" and epoch >= cfg.NEGATIVES.RANDOM_EPOCHS

        def make(numbered: tuple[int, Pairs]) -> dict[str, np.ndarray]:
            number, pairs = numbered
            if hardens:
                random = np.random.default_rng([cfg.MISC.SEED, epoch, number, start.rank])
                pairs = harden(model, training, pairs, cfg.NEGATIVES.SHARE, random, cfg.EVAL.BATCH_TOKENS)
            batch = training.batch(pairs)
            if cfg.LOSS.WORD_WEIGHT:
                random = np.random.default_rng([cfg.MISC.SEED, epoch, number, start.rank, 1])
                batch = add_masked_pairs(batch, cfg.LOSS.WORD_SHARE, word_piece.mask_id, random)
            return batch

        return len(batches), prefetched(make, batches, cfg.MISC.NUM_WORKERS, first)

    validate = _validation(cfg, model, dev, candidates)
    return Task(model, word_piece, training, dev, batches_of, validate, sampler.resume_within_epoch)


def _origin(cfg: CfgNode, start: Start) -> tuple[Path | None, PretrainedFolder | None]:
    """Return the checkpoint or the pretrained folder whose weights and words training starts from, if any."""
    if start.resume_from or not cfg.PRETRAINED.DIR:
        return start.resume_from, None
    folder = Path(cfg.PRETRAINED.DIR)
    return (folder, None) if is_checkpoint(folder) else (None, open_pretrained(folder))


def _word_piece(
    cfg: CfgNode, split: PairSplit, checkpoint: Path | None, pretrained: PretrainedFolder | None
) -> WordPiece:
    if checkpoint:
        return read_word_piece(cfg, checkpoint)
    if pretrained:
        return WordPiece.load(pretrained.path / WordPiece.file_name, cfg.INPUT.DO_LOWER_CASE)
    return build_word_piece(cfg, split)


def _first_model(
    cfg: CfgNode,
    start: Start,
    training: PairDataset,
    checkpoint: Path | None,
    pretrained: PretrainedFolder | None,
) -> nn.Layer:
    """Return the model as training begins; what a resumed run goes on with is loaded later."""
    moments = training.feature_moments() if cfg.INPUT.STANDARDIZE and not checkpoint else (None, None)
    vocab_size = len(training.word_piece)
    if pretrained:
        pretrained.check_shape(bert_shape(cfg, vocab_size))
    model = build_model(cfg, vocab_size, *moments)
    if pretrained:
        fresh = load_pretrained(model, pretrained)
        start.say(f"weights: {pretrained.path}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    elif checkpoint and not start.resume_from:
        load_model(checkpoint, model, cfg.MODEL.NAME)
    return model


def _hard_negatives(cfg: CfgNode, training: PairDataset, start: Start) -> HardNegatives | None:
    if cfg.NEGATIVES.KIND == "neighbours":
        return neighbour_negatives(training, cfg.NEGATIVES.NEIGHBOURS)
    if cfg.NEGATIVES.KIND == "mined":
        return mine_with_dual(cfg.NEGATIVES.DUAL, training, cfg.NEGATIVES.TOP, run_folder(cfg).path)
    return None


def _validation(
    cfg: CfgNode, model: nn.Layer, dev: PairDataset, candidates: Pairs | None
) -> Callable[[Progress], dict[str, float]]:
    def validate(progress: Progress) -> dict[str, float]:
        split, rule = cfg.DATASET.DEV, cfg.EVAL.TIE_RULE
        sizes = cfg.EVAL.BATCH_TOKENS, cfg.EVAL.BLOCK_PAIRS
        if candidates is None:
            return evaluate_cross(model, dev, split, 1, rule, *sizes, progress).metrics
        return evaluate_candidates(model, dev, candidates, split, rule, *sizes, progress).metrics

    return validate
