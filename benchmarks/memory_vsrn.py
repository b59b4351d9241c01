"""Memory that a COCO-sized store adds to training VSRN: 113,287 images of 36 x 2048 against 1,000.

The real command line trains on a sparse float16 file, whose holes are read like other pages but take no disk
space, with five captions an image. Each run is stopped after 24,576 pairs, which have some 22,500 distinct
images of the large store. The model is small (all widths 64, 1,000 words), since reading is what is measured.
Memory is the sampled peak of the resident pages of all processes of a run, with mapped files. The baseline is
computed, not run: it is the size of the float32 array that the original loads, 33.4 GB (31.1 GiB).
"""

from _race import random_captions
from _report import ROOT, TUNING, report

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

LARGE, SMALL, DEV, REGIONS, WIDTH = 113_287, 1000, 100, 36, 2048
CAPTIONS_PER_IMAGE, WORDS, BATCH, STEPS = 5, 1000, 256, 96
ALLOWED, INTERVAL, PATIENCE = 1.5, 0.2, 600.0  # GB, seconds, seconds
OVERRIDES = [
    *(f"MODEL.{width}=64" for width in ("EMBED_DIM", "WORD_DIM", "CAPTION_DIM", "CAPTION_WORD_DIM")),
    f"OPTIMIZATION.BATCH_SIZE={BATCH}",
    "INPUT.TOKENIZER=whitespace",
    "LOSS.COLLAPSE_STEPS=0",  # all images are zeros, so embeddings are equal
    "MONITOR.PRINT_STEP=1",
    "MONITOR.EVAL_FREQ=0",
    "MONITOR.EVAL_STEP=0",
    "OUTPUT.SAVE_NAME=run",
]


def main() -> None:
    """Train on both stores, and report how much memory the large one adds."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for images in (SMALL, LARGE):
            data = Path(folder) / str(images)
            write_store(data, "train", images)
            write_store(data, "dev", DEV)
            peaks[images] = peak_of_training(data)
            print(f"{images} images: peak {peaks[images]:.3f} GB", flush=True)
    array = LARGE * REGIONS * WIDTH * 4 / 1e9
    report(
        f"memory that {LARGE} images add to training VSRN (baseline: their float32 array's size, computed)",
        ours=max(peaks[LARGE] - peaks[SMALL], 0.001),
        baseline=array,
        goal=array / ALLOWED,
        unit="GB",
        higher_is_better=False,
    )


def write_store(folder: Path, split: str, images: int) -> None:
    """Write a split whose features are a sparse file of zeros."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{split}_ims.npy"
    np.lib.format.open_memmap(path, "w+", np.float16, (images, REGIONS, WIDTH))
    names = (f"COCO_train2014_{number:012}.jpg\n" for number in range(images))
    (folder / f"{split}_ids.txt").write_text("".join(names))
    lines = (f"{caption}\n" for caption in random_captions(images * CAPTIONS_PER_IMAGE, WORDS))
    (folder / f"{split}_caps.txt").write_text("".join(lines))


def peak_of_training(data: Path) -> float:
    """Train for STEPS steps, and return the peak memory, in GB, of all processes of the run together."""
    log = data / "run" / "log.jsonl"
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py"]
    command += ["--cfg_file", ROOT / "configs" / "coco" / "vsrn.yaml", *OVERRIDES]
    command += [f"DATASET.DATA_DIR={data}", f"OUTPUT.CHECKPOINT_DIR={data}"]
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    started, peak = time.monotonic(), 0.0
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while steps_done(log) < STEPS:
            if process.poll() is not None:
                raise RuntimeError(f"training ended with {process.returncode} after {steps_done(log)} steps")
            if time.monotonic() - started > PATIENCE:
                raise RuntimeError(f"{steps_done(log)} steps within {PATIENCE:.0f} s, expected {STEPS}")
            peak = max(peak, resident(process))
            time.sleep(INTERVAL)
    finally:
        process.kill()
        process.wait()
    return peak


def resident(process: psutil.Process) -> float:
    """Return the resident memory, in GB, of a process and its descendants; shared pages count for each."""
    held = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            held += member.memory_info().rss
        except psutil.NoSuchProcess:  # the process has ended meanwhile
            continue
    return held / 1e9


def steps_done(log: Path) -> int:
    """Return the last step in the complete lines of a run's log; 0 if there is none."""
    lines = log.read_text().split("\n")[:-1] if log.is_file() else []
    return max((json.loads(line).get("step", 0) for line in lines[-2:]), default=0)


if __name__ == "__main__":
    main()
