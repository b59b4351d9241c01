"""A model of one linear layer and all that the training loop needs around it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
import pytest

from engine.runs.run_log import RunLog
from engine.training.settings import TrainingSettings
from engine.training.trainer import Trainer, Watcher

BATCHES, PAIRS, WIDTH = 6, 4, 3


class Line(paddle.nn.Layer):
    """Predict a number from three."""

    def __init__(self, dropout: float):
        super().__init__()
        paddle.seed(0)
        self.fc = paddle.nn.Linear(WIDTH, 1)
        self.dropout = paddle.nn.Dropout(dropout)

    def forward(self, batch):
        return {"scores": self.fc(self.dropout(batch["x"]))}


class SquaredError(paddle.nn.Layer):
    """The mean squared error, which has a parameter of its own as a contrastive loss has."""

    def __init__(self):
        super().__init__()
        self.offset = self.create_parameter([], default_initializer=paddle.nn.initializer.Constant(0.0))

    def forward(self, outputs, batch, epoch):
        return {"error": ((outputs["scores"] + self.offset - batch["y"]) ** 2).mean()}


def pairs_of(batch: int, epoch: int, pairs: int = PAIRS) -> dict[str, np.ndarray]:
    random = np.random.default_rng([epoch, batch])
    x = random.standard_normal((pairs, WIDTH)).astype(np.float32)
    return {"x": x, "y": x.sum(axis=1, keepdims=True), "image_id": np.arange(pairs)}


@dataclass
class Run:
    """A trainer, and what it did: the names it saved, the states it saved, the scores it is told."""

    trainer: Trainer
    log_file: Path
    saved: list[tuple[str, int]] = field(default_factory=list)
    states: dict[str, tuple] = field(default_factory=dict)

    def records(self, event: str = "train") -> list[dict]:
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def weights(self) -> np.ndarray:
        return np.append(self.trainer.model.fc.weight.numpy(), self.trainer.model.fc.bias.numpy())


def metrics_of(score: float) -> dict[str, float]:
    recalls = {f"{way}_r{k}": 0.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    return {**recalls, "rsum": score}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Return a function that makes a Run; what it takes beside the settings is named here."""

    def make(
        scores: Callable[[int], float] = lambda step: float(step),
        model: paddle.nn.Layer | None = None,
        loss: paddle.nn.Layer | None = None,
        batches_of: Callable | None = None,
        optimizer: str = "adam",
        dropout: float = 0.0,
        rate: float = 0.1,
        write: Callable[[], None] = lambda: None,
        watched_by: Callable[[RunLog], list[Watcher]] = lambda log: [],
        **settings,
    ) -> Run:
        model, loss = model or Line(dropout), loss or SquaredError()
        parameters = [*model.parameters(), *loss.parameters()]
        optimizers = {"adam": paddle.optimizer.Adam, "sgd": paddle.optimizer.SGD}
        log_file = tmp_path / f"log{len(list(tmp_path.iterdir()))}.jsonl"
        log = RunLog(log_file, None, enabled=True)

        def save(names: list[str], *state: dict) -> None:
            run.saved += [(name, state[-1]["progress"]["step"]) for name in names]
            run.states |= dict.fromkeys(names, state)
            write()

        trainer = Trainer(
            model=model,
            loss=loss,
            optimizer=optimizers[optimizer](rate, parameters=parameters),
            schedule=lambda step: rate / (1 + step),
            batches_of=batches_of
            or (lambda epoch, start: (BATCHES, (pairs_of(i, epoch) for i in range(start, BATCHES)))),
            settings=TrainingSettings(**{"epochs": 2, "seed": 1, "print_step": 1, **settings}),
            log=log,
            validate=lambda show: metrics_of(scores(run.trainer.position.step)),
            save=save,
            watchers=watched_by(log),
        )
        run = Run(trainer, log_file)
        return run

    return make
