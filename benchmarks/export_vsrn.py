"""Exporting VSRN at the original's size (regions of 2048, embeddings of 2048, 10,000 words): time and memory.

The real command line exports untrained weights, with the proof on 20 images of 36 regions. Memory is the peak
of the tool's resident pages; the limit is 2.5 times the peak of a process that only loads the model.
"""

from _race import RANDOM_VOCABULARY, random_captions
from _report import ROOT, TUNING, peak_memory, report, run_child, seconds

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES, REGIONS, WIDTH, LIMIT_SECONDS, LIMIT_MODELS = 20, 36, 2048, 30.0, 2.5
TOOL = ROOT / "tools" / "export_model.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_child(__file__, folder, "make")
        loaded = run_child(__file__, folder, "load")["gigabytes"]
        command = [sys.executable, str(TOOL), *arguments(Path(folder)), "--out", f"{folder}/bundle"]
        environment = {name: value for name, value in os.environ.items() if name not in TUNING}
        spent = seconds(lambda: print(subprocess.check_output(command, env=environment, text=True)))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    claim = "export of VSRN at the original's size"
    report(f"{claim}, time", spent, LIMIT_SECONDS, goal=1, unit="s", higher_is_better=False)
    limit = LIMIT_MODELS * loaded
    report(f"{claim}, peak memory", peak, limit, goal=1, unit="GB", higher_is_better=False)


def arguments(folder: Path) -> list[str]:
    """Return the tool's arguments for the run in `folder`."""
    keys = {
        "DATASET.DATA_DIR": folder,
        "INPUT.TOKENIZER": "whitespace",
        "OUTPUT.CHECKPOINT_DIR": folder,
        "OUTPUT.SAVE_NAME": "run",
    }
    config = ROOT / "configs" / "f30k" / "vsrn.yaml"
    return ["--cfg_file", str(config), *(f"{key}={value}" for key, value in keys.items())]


def make_run(folder: Path) -> None:
    """Write a dev split and a checkpoint of untrained weights, in a process whose memory does not count."""
    from config.load import load_config
    from datasets.words.vocabulary import Vocabulary
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    from engine.runs.checkpoint import save_checkpoint
    from engine.weights.tensors import layer_arrays
    from models.build import build_model

    random = np.random.default_rng(0)
    np.save(folder / "dev_ims.npy", random.standard_normal((IMAGES, REGIONS, WIDTH), dtype=np.float32))
    captions = random_captions(5 * IMAGES)
    (folder / "dev_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
    every_word = " ".join(f"w{number}" for number in range(RANDOM_VOCABULARY))
    words = Vocabulary.build([every_word], "whitespace", 1, "vsepp")
    cfg = load_config(arguments(folder)[1], arguments(folder)[2:])
    model = build_model(cfg, len(words))
    for block in model.image_encoder.blocks:  # with the initial 0, a block is the identity
        block.norm.weight.set_value(np.full(WIDTH, 0.1, np.float32))
    arrays = layer_arrays(model)
    state = {"model": "vsrn", "config": {}, "progress": {"step": 0}}
    save_checkpoint(folder / "run" / "best", arrays, {}, state, words.to_text())
    print(json.dumps({"made": "run"}))


def load_run(folder: Path) -> None:
    """Load the model as every tool does, and print the peak of memory."""
    from config.load import load_config
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    from engine.tasks.kinds import kind_of

    cfg = load_config(arguments(folder)[1], arguments(folder)[2:])
    kind_of(cfg).load(cfg)
    print(json.dumps({"gigabytes": peak_memory()}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"make": make_run, "load": load_run}[sys.argv[2]](Path(sys.argv[1]))
    else:
        main()
