"""What a kind of model hands over: a task to train, a trained model, a measurement, a run to report on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from paddle import nn

from config.progress import ShowProgress
from datasets.image_dataset import ClassNames, ImageDataset
from datasets.pair_dataset import PairDataset
from datasets.retrieval_dataset import RetrievalDataset
from datasets.samplers.batches import FinishedPart
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.evaluation.image import ImageResult
from engine.evaluation.result import Result
from engine.evaluation.score_shards import ScoreShards

Batches = tuple[int, Iterable[dict[str, np.ndarray]]]
Dataset = RetrievalDataset | PairDataset | ImageDataset
Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """Where training starts: from the checkpoint that it goes on from, if any, and in which process.

    `say` prints a line.
    """

    resume_from: Path | None
    rank: int
    world_size: int
    say: Say

    @property
    def checks_features(self) -> bool:
        """Tell whether a bad value is to be found now, before a run is replaced, and not hours later."""
        return self.rank == 0 and self.resume_from is None


@dataclass(frozen=True)
class Task:
    """A model and its loss, its words, its data and what the trainer asks for.

    `words`: what is stored beside the weights, `unit` what an entry of it is called. `batches_of` is the
    trainer's, and an epoch is made of `samples`. `validate` is called in all processes and returns the
    metrics of the dev split, in process 0 at least. `resume_within_epoch` is the sampler's.
    """

    model: nn.Layer
    loss: nn.Layer
    words: Vocabulary | WordPiece | ClassNames
    unit: str
    training: Dataset
    dev: Dataset
    samples: int
    batches_of: Callable[[int, int], Batches]
    validate: Callable[[ShowProgress], dict[str, float]]
    resume_within_epoch: Callable[[int, list[FinishedPart]], None]


@dataclass(frozen=True)
class Trained:
    """A trained model, in evaluation mode, and its words, if it reads any.

    `checkpoint` says which weights these are: `folder`, `sha256`, `model` (the family) and `step`.
    """

    model: nn.Layer
    words: Vocabulary | WordPiece | None
    checkpoint: dict

    def describe(self) -> str:
        """Return the family, and in brackets the folder and the step of the weights."""
        return "{model} ({folder}, step {step})".format(**self.checkpoint)


@dataclass(frozen=True)
class EvaluationOptions:
    """What `eval_retrieval.py` is asked for beside the configuration.

    `shards`: the folder where a cross encoder keeps scores as it makes them; beside it processes share
    embeddings. `weights`: positive, one a
    checkpoint, scaled to a sum of 1; None: equal ones, or with `tune` those with the highest
    MONITOR.BEST_METRIC on dev. `scores_path` takes all scores. `show` is told how far the work is; `say`
    prints a line.
    """

    shards: Path
    weights: Sequence[float] | None = None
    tune: bool = False
    scores_path: str | None = None
    show: ShowProgress | None = None
    say: Say = print


@dataclass(frozen=True)
class Measured:
    """What was measured, of which weights, and the lines that say so.

    `checkpoint`: that of `Trained`; of several members, a list `members` of these with `weight` and `config`,
    the keys that differ from the first configuration, and `tuning` where weights were searched. `further`:
    what `result.json` gains, such as `swapped` and `rerank`. `pair_scores`: what a cross encoder scored, to
    be deleted when the result is kept.
    """

    result: Result | ImageResult
    checkpoint: dict
    lines: list[str]
    further: dict[str, dict] = field(default_factory=dict)
    pair_scores: ScoreShards | None = None


@dataclass(frozen=True)
class ReportedRun:
    """What a report shows of one run: its model, the split, what was measured on it and the run's log.

    `gallery`: where an image encoder searched, `dataset` itself without EVAL.GALLERY. `image_embeddings`
    [images,D] of a dual encoder are those that were measured. `swapped` and `rerank` as in `result.json`.
    """

    model: nn.Layer
    checkpoint: dict
    dataset: Dataset
    result: Result | ImageResult
    log: list[dict]
    gallery: Dataset | None = None
    image_embeddings: np.ndarray | None = None
    swapped: dict[str, float] = field(default_factory=dict)
    rerank: dict = field(default_factory=dict)
