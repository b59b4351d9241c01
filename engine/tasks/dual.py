"""Build what a model of each kind learns from: its data, its first weights, its batches, its validation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from datasets.build.dual import build_dataset, build_sampler, build_vocabulary
from datasets.image_dataset import ClassNames, ImageDataset
from datasets.pair_dataset import PairDataset
from datasets.prefetch import prefetched
from datasets.retrieval_dataset import RetrievalDataset
from datasets.samplers.batches import FinishedPart
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.evaluation.dual import evaluate
from engine.evaluation.protocol import Progress
from engine.runs.checkpoint import load_model
from engine.tasks.loading import read_vocabulary, run_folder
from engine.weights.cnn_weights import start_cnn
from models.build import build_model

Batches = tuple[int, Iterable[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Start:
    """Where training starts: from the checkpoint that it goes on from, if any, and in which process.

    `say` prints a line.
    """

    resume_from: Path | None
    rank: int
    world_size: int
    say: Callable[[str], None]

    @property
    def checks_features(self) -> bool:
        """Tell whether a bad value is to be found now, before a run is replaced, and not hours later."""
        return self.rank == 0 and self.resume_from is None


@dataclass(frozen=True)
class Task:
    """A model, its words, its data and what the trainer asks for.

    `batches_of` is the trainer's; `validate` is called in all processes, returns the metrics of the dev
    split, in process 0 at least, and tells its argument how far it is; `resume_within_epoch` is that of the
    sampler.
    """

    model: nn.Layer
    vocabulary: Vocabulary | WordPiece | ClassNames
    training: RetrievalDataset | PairDataset | ImageDataset
    dev: RetrievalDataset | PairDataset | ImageDataset
    batches_of: Callable[[int, int], Batches]
    validate: Callable[[Progress], dict[str, float]]
    resume_within_epoch: Callable[[int, list[FinishedPart]], None]


def dual_task(cfg: CfgNode, start: Start) -> Task:
    """Return the task of a dual encoder: batches of pairs, all of which compete with each other."""
    origin = start.resume_from or cfg.PRETRAINED.DIR
    vocabulary = read_vocabulary(origin) if origin else build_vocabulary(cfg)
    training = build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=True)
    dev = build_dataset(cfg, cfg.DATASET.DEV, vocabulary, training=False)
    if start.checks_features:
        training.check_features()
        dev.check_features()
    moments = training.feature_moments() if cfg.INPUT.STANDARDIZE and not origin else (None, None)
    model = build_model(cfg, len(vocabulary), *moments)
    freeze = start_cnn(model, "" if origin else cfg.MODEL.CNN_WEIGHTS, cfg.MODEL.CNN_FREEZE_EPOCHS)
    if origin and not start.resume_from:
        load_model(origin, model, cfg.MODEL.NAME)
    sampler = build_sampler(cfg, training, start.rank, start.world_size)

    def batches_of(epoch: int, first: int) -> Batches:
        freeze(epoch)
        training.start_epoch(epoch)
        batches = sampler.batches(epoch)
        return len(batches), prefetched(training.batch, batches, cfg.MISC.NUM_WORKERS, first)

    def validate(progress: Progress) -> dict[str, float]:
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

    return Task(model, vocabulary, training, dev, batches_of, validate, sampler.resume_within_epoch)
