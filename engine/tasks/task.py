"""What the functions of a kind of model take and return (see `kinds.py`)."""

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
from engine.certificates.sides import Certified
from engine.evaluation.image import ImageResult
from engine.evaluation.result import Result
from engine.evaluation.scores.shards import ScoreShards
from engine.inspection.kept_lists import KeptLists

Batches = tuple[int, Iterable[dict[str, np.ndarray]]]
Dataset = RetrievalDataset | PairDataset | ImageDataset
Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """How training starts.

    `resume_from` is the checkpoint to resume, None for a new run. `rank` is the number of this process among
    the `world_size` processes of the job. `say` prints a line.
    """

    resume_from: Path | None
    rank: int
    world_size: int
    say: Say

    @property
    def checks_features(self) -> bool:
        """Tell whether to read all features now, so that a bad value ends the run before it replaces another.

        A resumed run has read them before; process 0 reads them for all processes.
        """
        return self.rank == 0 and self.resume_from is None


@dataclass(frozen=True)
class Task:
    """A model with its loss and data, and the functions that the trainer calls.

    `words` is the vocabulary that is stored beside the weights, or the class names of an image encoder;
    `unit` is the plural noun for its entries. `samples` is the number of training samples in an epoch.
    `batches_of` is explained at `Trainer`. All processes call `validate`; it returns the metrics of the dev
    split, in process 0 at least. `resume_within_epoch` is the sampler's method.
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
    """A trained model in evaluation mode, and its vocabulary, if it reads text.

    `checkpoint` identifies the weights: `folder`, `sha256`, `model` (the family) and `step`.
    """

    model: nn.Layer
    words: Vocabulary | WordPiece | None
    checkpoint: dict

    def describe(self) -> str:
        """Return a line with the family, and in brackets the folder and the step of the weights."""
        return "{model} ({folder}, step {step})".format(**self.checkpoint)


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of `eval_retrieval.py` that are not in the configuration.

    `shards` is the folder where a cross encoder keeps its scores while it makes them; processes of a job
    share embeddings in the folder above it. `weights` holds a positive weight for each checkpoint, which are
    scaled to a sum of 1; without it the weights are equal, or, with `tune`, those with the highest
    MONITOR.BEST_METRIC on dev. `scores_path` is the file to write all scores to. `show` is told how far the
    work is; `say` prints a line.
    """

    shards: Path
    weights: Sequence[float] | None = None
    tune: bool = False
    scores_path: str | None = None
    show: ShowProgress | None = None
    say: Say = print


@dataclass(frozen=True)
class Measured:
    """The outcome of an evaluation, the weights that it measured, and the lines to print.

    `checkpoint` is that of `Trained`. For an ensemble it holds `members`, a list of such dicts, each with its
    `weight` and, under `config`, the keys that differ from the first member's configuration; and `tuning`, if
    the weights were searched. `further` holds more entries for `result.json`, such as `swapped` and `rerank`.
    `pair_scores` are the stored scores of a cross encoder; delete them once the result is saved. `names` are
    lists of names that results must share to be compared. `lists` are what each query found first, and
    `reranked` is the result after re-ranking, whose entry is `further["rerank"]`.
    """

    result: Result | ImageResult
    checkpoint: dict
    lines: list[str]
    further: dict[str, dict] = field(default_factory=dict)
    pair_scores: ScoreShards | None = None
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    lists: KeptLists | None = None
    reranked: Result | None = None


@dataclass(frozen=True)
class ReportedRun:
    """What a report shows of one run: its model, the split, the result on that split and the run's log.

    `gallery` is what an image encoder searched: `dataset` itself without EVAL.GALLERY. `image_embeddings`
    [images,D] are those of a dual encoder. `swapped` and `rerank` are the entries of `result.json`.
    `certified` are intervals and chance levels by metric, empty without EVAL.RESAMPLES, and `settings` say in
    words how the run was made.
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
    certified: dict[str, Certified] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
