"""The gain by loader threads: batches of region features are read while a training step runs.

Images of 36 x 2048 float16 regions are read, converted and averaged, 128 images a batch (19 MB), with and
without two loader threads, in three settings:
- `device`: the step sleeps, as if it ran on a GPU and left the processor free.
- `one thread`: the step is a Paddle training step on one core.
- `all cores`: the step is a Paddle training step on all cores, so the threads compete with it.
"""

from _report import alternate, report, run_child, seconds

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

IMAGES, REGIONS, WIDTH = 1024, 36, 2048
BATCH, STEPS, WORKERS = 128, 24, 2
SETTINGS = {"device": 0, "one thread": 1, "all cores": os.cpu_count() or 1}  # Paddle's threads


def main() -> None:
    if len(sys.argv) == 4:
        measure(*sys.argv[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "train_ims.npy")
        write_store(path)
        results = {name: run_child(__file__, path, name, str(n)) for name, n in SETTINGS.items()}
    print("setting      batch ms  step ms  images/s: no threads  two threads")
    for name, result in results.items():
        print(
            f"{name:12} {result['batch'] * 1e3:8.1f} {result['step'] * 1e3:8.1f}"
            f" {result['baseline']:22.0f} {result['ours']:12.0f}"
        )
    report(
        "two loader threads beside a device: 36 x 2048 float16 regions, batch 128",
        **{side: results["device"][side] for side in ("ours", "baseline")},
        goal=1.5,
        unit="images/s",
        higher_is_better=True,
    )


def write_store(path: str) -> None:
    """Write random features, block by block."""
    import numpy as np

    store = np.lib.format.open_memmap(path, "w+", np.float16, (IMAGES, REGIONS, WIDTH))
    random = np.random.default_rng(0)
    for start in range(0, IMAGES, 64):
        store[start : start + 64] = random.random((64, REGIONS, WIDTH), dtype=np.float32)
    store.flush()


def measure(path: str, setting: str, threads: str) -> None:
    """Print the measurements of a setting as JSON: seconds per batch and per step, and images/s."""
    step = make_step(int(threads))
    import numpy as np

    from datasets.features.npy import NpyFeatures
    from datasets.prefetch import prefetched

    features = NpyFeatures(path)
    random = np.random.default_rng(1)
    batches = [random.integers(0, IMAGES, size=BATCH) for _ in range(STEPS)]

    def images_per_second(workers: int) -> float:
        def epoch() -> None:
            for values in prefetched(lambda rows: features.gather(rows, pool=True), batches, workers):
                step(values)

        return len(batches) * BATCH / seconds(epoch)

    images_per_second(0)
    ours, baseline = alternate(lambda: images_per_second(WORKERS), lambda: images_per_second(0))
    batch = min(seconds(lambda: features.gather(batches[0], pool=True)) for _ in range(5))
    values = features.gather(batches[0], pool=True)
    print(
        json.dumps(
            {
                "ours": ours,
                "baseline": baseline,
                "batch": batch,
                "step": min(seconds(lambda: step(values)) for _ in range(5)),
            }
        )
    )


def make_step(threads: int) -> Callable[[object], None]:
    """Return a step on a batch: 15 ms of sleep for 0 threads, else a training step of two linear layers."""
    if threads == 0:
        return lambda values: time.sleep(0.015)
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu", threads, seed=0, deterministic=True)
    import paddle

    encoder = paddle.nn.Sequential(paddle.nn.Linear(WIDTH, 1024), paddle.nn.Linear(1024, 1024))

    def step(values: object) -> None:
        encoder(paddle.to_tensor(values)).square().mean().backward()
        encoder.clear_gradients()

    return step


if __name__ == "__main__":
    main()
