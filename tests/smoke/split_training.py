"""The same work in one process or split over several: trainings of five steps, and evaluations.

    PYTHONPATH=. python -m paddle.distributed.launch --nproc_per_node N split_training.py OUT CASE [CASE ...]

writes OUT/rank_R.npz, what `train_all` and `evaluate_all` return in process R.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

import engine.training.trainer
from datasets.relevance import own_captions
from engine.evaluation.dual import evaluate
from engine.parallel.processes import (
    all_or_none,
    average_gradients,
    process_number,
    start_process_group,
    world_size,
)
from engine.runs.run_log import RunLog
from engine.training.settings import TrainingSettings
from engine.training.trainer import Trainer
from models.captioner import Captioner
from models.dual_encoder import DualEncoder
from models.encoders import GRUTextEncoder, ImageEncoder
from models.gathering import gather_rows
from models.layers.synchronised_norm import synchronise_batch_norms
from models.losses.metric_learning import (
    MinedLoss,
    SoftmaxLoss,
    TripletLoss,
    adaptive_quadruplet_loss,
    batch_hard_loss,
    margin_sample_mining_loss,
    quadruplet_loss,
    semi_hard_loss,
)
from models.losses.ranking import CaptionedLoss, ContrastiveLoss, HingeLoss
from models.vsrn import VSRN, RegionEncoder

STEPS, WORDS, FEATURES, DIM = 5, 20, 7, 6
UNEVEN = [12, 12, 11, 12, 9]  # rows of the global batches
EVEN = [12] * STEPS

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A training: `make` returns model and loss, `batch` the global batch of a step and a number of rows."""

    make: Callable[[], tuple[nn.Layer, nn.Layer]]
    batch: Callable[[int, int], Batch]
    sizes: list[int]
    accumulation_steps: int = 1
    optimizer: Callable[..., paddle.optimizer.Optimizer] = paddle.optimizer.Adam
    rate: float = 1e-3


def dual(measure: str = "cosine") -> DualEncoder:
    text = GRUTextEncoder(vocab_size=WORDS, word_dim=5, embed_dim=DIM)
    return DualEncoder(ImageEncoder(FEATURES, DIM), text, measure, gather_rows)


def vsrn() -> tuple[nn.Layer, nn.Layer]:
    encoder = RegionEncoder(FEATURES, DIM, num_blocks=1, batch_norm=True)
    for block in encoder.blocks:  # from 0, where a block is the identity
        block.norm.weight.set_value(np.ones(DIM, np.float32))
    text = GRUTextEncoder(vocab_size=WORDS, word_dim=5, embed_dim=DIM)
    captioner = Captioner(DIM, WORDS, word_dim=5, hidden_dim=8, dropout=0.0)
    loss = CaptionedLoss(HingeLoss(0.2, True, 0, True, gather_rows), 1.0)
    return VSRN(encoder, text, captioner=captioner, gather=gather_rows), loss


class Embedder(nn.Layer):
    """A small CNN with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2D(3, 4, 3, bias_attr=False),
            nn.BatchNorm2D(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2D(2),
            nn.Flatten(),
        )
        self.fc = nn.Linear(16, DIM)

    def forward(self, batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        return {"image": self.fc(self.network(batch["pixels"]))}


def captioned(step: int, rows: int) -> Batch:
    """Return pairs of which some share an image, and some a sentence, of captions of one length."""
    random = np.random.default_rng([step, rows])
    images, sentences = random.integers(rows, size=rows), random.integers(rows, size=rows)
    features = random.standard_normal((rows, FEATURES)).astype(np.float32)
    tokens = random.integers(4, WORDS, (rows, 6))
    return {
        "features": features[images],
        "token_ids": tokens[sentences],
        "text_len": np.full(rows, 6),
        "image_id": images,
        "sentence_id": sentences,
    }


def with_regions(step: int, rows: int) -> Batch:
    random = np.random.default_rng([step, rows, 1])
    regions = random.standard_normal((rows, 4, FEATURES)).astype(np.float32)
    batch = captioned(step, rows) | {"regions": regions, "num_regions": random.integers(2, 5, rows)}
    del batch["features"]
    return batch | {"image_id": np.arange(rows)}


def pictures(step: int, rows: int) -> Batch:
    random = np.random.default_rng([step, rows, 2])
    images = random.standard_normal((rows, 3, 5, 5)).astype(np.float32)
    labels = np.repeat(np.arange(rows), 3)[:rows]
    return {"pixels": images, "label": labels, "image_id": np.arange(rows)}


def triplets(step: int, rows: int) -> Batch:
    return pictures(step, rows) | {"label": np.tile([0, 0, 1], rows // 3)}


def mined(name: str, pair_loss: Callable) -> Case:
    return Case(lambda: (Embedder(), MinedLoss(name, pair_loss, gather_rows)), pictures, UNEVEN)


CASES = {
    "hinge, sum": Case(lambda: (dual(), HingeLoss(0.2, False, 0, True, gather_rows)), captioned, UNEVEN),
    "hinge, hardest": Case(lambda: (dual(), HingeLoss(0.2, True, 0, True, gather_rows)), captioned, UNEVEN),
    "order, accumulated": Case(
        lambda: (dual("order"), HingeLoss(0.2, True, 0, False, gather_rows)), captioned, UNEVEN * 2, 2
    ),
    "contrastive": Case(lambda: (dual(), ContrastiveLoss(0.1, True, gather_rows)), captioned, UNEVEN),
    # A bias in front of a batch normalisation has no gradient but rounding, which Adam would blow up.
    # With so few rows its gradients are large, and long steps would make much of the last digits.
    "vsrn": Case(vsrn, with_regions, UNEVEN, optimizer=paddle.optimizer.Momentum, rate=1e-5),
    "softmax": Case(lambda: (Embedder(), SoftmaxLoss(DIM, 12, 0.1)), pictures, UNEVEN),
    "triplet": Case(lambda: (Embedder(), TripletLoss(0.3)), triplets, EVEN),
    "batch_hard": mined("batch_hard", lambda far, labels: batch_hard_loss(far, labels, 0.3)),
    "semi_hard": mined("semi_hard", lambda far, labels: semi_hard_loss(far, labels, 0.3)),
    "quadruplet": mined("quadruplet", lambda far, labels: quadruplet_loss(far, labels, 0.3, 0.2)),
    "adaptive_quadruplet": mined("adaptive_quadruplet", adaptive_quadruplet_loss),
    "margin_sample_mining": mined(
        "margin_sample_mining", lambda far, labels: margin_sample_mining_loss(far, labels, 0.3)
    ),
}


def train_all(cases: Iterable[str], rank: int = 0, world_size: int = 1) -> dict[str, np.ndarray]:
    """Train the named cases; return losses, gradients and final weights under `<case>/<kind>/...`."""
    found = {}
    for name in cases:
        found |= {f"{name}/{key}": value for key, value in train(CASES[name], rank, world_size).items()}
    return found


def train(case: Case, rank: int, world_size: int) -> dict[str, np.ndarray]:
    """Return `loss/STEP`, `gradient/STEP/PARAMETER` and `weight/TENSOR` of a training."""
    paddle.seed(5)
    model, loss = case.make()
    if world_size > 1:
        synchronise_batch_norms(model)
    found: dict[str, np.ndarray] = {}
    parameters = [*model.parameters(), *loss.parameters()]

    def watched_average(averaged: list[paddle.Tensor], extra: list[float]) -> list[float]:
        values = average_gradients(averaged, extra)
        step = trainer.position.step
        found[f"loss/{step}"] = np.array(values)
        for number, parameter in enumerate(averaged):
            gradient = np.zeros(1) if parameter.grad is None else parameter.grad.numpy()
            found[f"gradient/{step}/{number}"] = gradient
        return values

    def batches_of(epoch: int, start: int) -> tuple[int, list[Batch]]:
        batches = [case.batch(step, rows) for step, rows in enumerate(case.sizes)]
        return len(batches), [share(batch, case, rank, world_size) for batch in batches]

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            loss,
            case.optimizer(case.rate, parameters=parameters),
            schedule=lambda step: case.rate,
            batches_of=batches_of,
            settings=TrainingSettings(
                epochs=1,
                seed=1,
                accumulation_steps=case.accumulation_steps,
                best_metric="none",
                eval_epochs=0,
            ),
            log=RunLog(Path(folder) / "log.jsonl", None, enabled=False),
            validate=lambda show: {"none": 0.0},
            save=lambda names, *state: None,
            rank=rank,
            world_size=world_size,
        )
        trainer._validation_due = lambda: False
        engine.training.trainer.average_gradients = watched_average
        trainer.fit()
    engine.training.trainer.average_gradients = average_gradients
    weights = [*model.state_dict().items(), *loss.state_dict().items()]
    return found | {f"weight/{name}": value.numpy() for name, value in weights}


def share(batch: Batch, case: Case, rank: int, world_size: int) -> Batch:
    """Return this process's rows: every world_size-th, or of triplets, runs of them."""
    if case.batch is triplets:
        return {name: np.split(values, world_size)[rank] for name, values in batch.items()}
    own = {name: values[rank::world_size] for name, values in batch.items()}
    if "regions" in own:
        own["regions"] = own["regions"][:, : own["num_regions"].max()]
    return own


class Split:
    """A split of 23 images with three captions each; some images are equal, and many sentences."""

    name, num_images = "test", 23

    def __init__(self) -> None:
        random = np.random.default_rng(8)
        self.features = random.standard_normal((self.num_images, FEATURES)).astype(np.float32)
        self.features[[9, 20]] = self.features[3]
        self.image_ids = [f"image {number}" for number in range(self.num_images)]
        self.caption_image = np.repeat(np.arange(self.num_images), 3)
        self.sentence_ids = random.integers(40, size=3 * self.num_images)
        self.tokens = random.integers(4, WORDS, (40, 6))
        self.lengths = np.full(len(self.sentence_ids), 6)
        self.captions = [str(sentence) for sentence in self.sentence_ids]
        self.num_captions = len(self.captions)
        self.relevance = own_captions(self.caption_image, self.num_images)

    def image_batch(self, images: np.ndarray) -> Batch:
        return {"features": self.features[images]}

    def text_batch(self, captions: np.ndarray) -> Batch:
        tokens = self.tokens[self.sentence_ids[captions]]
        return {"token_ids": tokens, "text_len": np.full(len(captions), 6)}


def evaluate_all(shared: Path) -> dict[str, np.ndarray]:
    """Evaluate two models in blocks smaller than the split; return metrics and ranks.

    shared: the folder in which processes share embeddings.
    """
    found = {}
    for measure in ("cosine", "order"):
        for folds, rule in ((1, "against"), (2, "average")):
            paddle.seed(6)
            result = evaluate(dual(measure), Split(), "test", folds, rule, 7, 4, shared=shared)
            name = f"evaluation, {measure}, {folds}"
            found[f"{name}/i2t"], found[f"{name}/t2i"] = result.i2t_ranks, result.t2i_ranks
            found[f"{name}/metrics"] = np.array(list(result.metrics.values()))
    return found | {"failures": np.array([_failure(error) for error in (ValueError, KeyError)])}


def _failure(error: type[Exception]) -> str:
    """Return what this process hears when the last one raises in the midst of common work."""

    def work() -> None:
        if process_number() == world_size() - 1:
            raise error("broken")

    try:
        all_or_none(work)
    except Exception as heard:
        return type(heard).__name__
    return "nothing"


if __name__ == "__main__":
    start_process_group()
    found = train_all(sys.argv[2:], process_number(), world_size()) | evaluate_all(Path(sys.argv[1]))
    np.savez(Path(sys.argv[1]) / f"rank_{process_number()}.npz", **found)
