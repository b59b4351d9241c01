"""Training ResNet50 at batch 16 and 224 pixels against its PyTorch twin, in turns.

As in the first stage of metric learning, the loss is softmax with label smoothing over 1,000 classes, and the
optimizer momentum with weight decay. Both sides start from random weights and train on the same images.
Loading of pictures is measured by `image_loader.py`.
"""

from _report import TUNING, alternate, report

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BATCH, PIXELS, CLASSES, ROUNDS = 16, 224, 1000, 3


def main() -> None:
    if len(sys.argv) == 2:
        ours(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        images = random.standard_normal((BATCH, 3, PIXELS, PIXELS), dtype=np.float32)
        np.savez(
            Path(folder) / "batch.npz",
            images=images,
            labels=random.integers(CLASSES, size=BATCH),
            classes=CLASSES,
        )
        with Side("train_resnet.py", folder) as mine, Side("_twin_resnet.py", folder) as twin:
            measured = alternate(mine.turn, twin.turn, ROUNDS)
    name = f"ResNet50 training, batch {BATCH}, {PIXELS} pixels"
    report(name, *measured, goal=1, unit="images/s", higher_is_better=True)


class Side:
    """A process that trains one step for each line on its stdin."""

    def __init__(self, script: str, folder: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in TUNING}
        pipe = subprocess.PIPE
        self.name = script
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), folder], env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def __enter__(self) -> "Side":
        for _ in range(2):
            self.turn()
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def turn(self) -> float:
        """Train one step, and return its images/s."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}: {line}")
        found = json.loads(line)
        print(f"{self.name}: {found['per_second']:.2f} images/s, loss {found['loss']:.3f}", flush=True)
        return found["per_second"]


def ours(folder: Path) -> None:
    """Run our side, with the model, loss and optimizer of configs/sop/softmax.yaml."""
    from _report import ROOT

    from config.load import load_config
    from engine.runtime import prepare_runtime

    cfg = load_config(ROOT / "configs" / "sop" / "softmax.yaml", ["MODEL.CNN_WEIGHTS="])
    prepare_runtime("cpu")
    import paddle

    from engine.training.training_state import named_parameters
    from models.build import build_loss, build_model
    from solvers.optimizer import build_optimizer

    data = np.load(folder / "batch.npz")
    model = build_model(cfg, 0)
    loss = build_loss(cfg, model.embed_dim, int(data["classes"]))
    optimizer = build_optimizer(cfg, named_parameters(model, loss))
    batch = {"pixels": paddle.to_tensor(data["images"]), "label": paddle.to_tensor(data["labels"])}
    while sys.stdin.readline():
        started = time.perf_counter()
        value = loss(model(batch), batch, 0)["softmax"]
        value.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        found = float(value)
        per_second = BATCH / (time.perf_counter() - started)
        print(json.dumps({"per_second": per_second, "loss": found}), flush=True)


if __name__ == "__main__":
    main()
