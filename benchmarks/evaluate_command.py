"""Evaluating RSICD's test split with VSE++ from the command line, against the original's: whole processes.

Both read the same captions and features (1,093 images, 5,465 captions, found as the other races find them),
split captions by nltk's rules, encode with the same weights (embedding 1024), rank both ways and must find
the same recalls. Ours also counts intervals and writes what it found.
"""

from _report import ROOT, alternate, report, seconds, untuned
from _race import VOCABULARY, WEIGHTS, shared_data

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from datasets.words.vocabulary import Vocabulary
from engine.weights.tensor_files import read_safetensors

FLOOR, ROUNDS = 4, 5
# Images and epochs of the training that makes a run, in half a minute. Without any, all scores are as good as
# alike, and take longer to rank than those of a model.
TRAINED, EPOCHS = 1024, 3
HERE = Path(__file__).resolve().parent


def main() -> None:
    name = "evaluation of RSICD's test split by VSE++, whole process, against the original's"
    source = shared_data() / "rsicd_precomp"
    if not source.is_dir():
        print(f"{name}: not here, since {source} is not", flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(source, folder)
        run = train(folder)
        ours = partial(evaluate, run)
        twin = [sys.executable, HERE / "_twin_evaluation.py", folder, folder / "twin.json"]
        theirs = partial(subprocess.run, twin, check=True, env=untuned(), stdout=subprocess.DEVNULL)
        theirs()
        bounds = [recalls(run, tie_rule) for tie_rule in ("against", "favour")]
        check_recalls(*bounds, json.loads((folder / "twin.json").read_text()))
        measured = alternate(lambda: seconds(ours), lambda: seconds(theirs), ROUNDS)
    report(name, *measured, goal=FLOOR, unit="s", higher_is_better=False)


def write_data(source: Path, folder: Path) -> None:
    """Write the test split, some training images, and the vocabulary of all of train."""
    for file in source.glob("test_*"):
        (folder / file.name).symlink_to(file.resolve())
    captions = (source / "train_caps.txt").read_text(encoding="utf-8").splitlines()
    Vocabulary.build(captions, "nltk", 4, "vsepp").save(folder / VOCABULARY)
    features = np.load(source / "train_ims.npy", mmap_mode="r")[:TRAINED]
    for split in ("train", "dev"):
        np.save(folder / f"{split}_ims.npy", features)
        lines = [f"{line}\n" for line in captions[: 5 * TRAINED]]
        (folder / f"{split}_caps.txt").write_text("".join(lines), encoding="utf-8")


def train(folder: Path) -> Path:
    """Train, write the weights for the twin, and return the folder of the run."""
    keys = {
        "DATASET.DATA_DIR": folder,
        "INPUT.VOCAB_FILE": folder / VOCABULARY,
        "LOSS.NAME": "contrastive",
        "OPTIMIZATION.EPOCHS": EPOCHS,
        "OPTIMIZATION.LR": 1e-3,
        "MONITOR.EVAL_STEP": 0,
        "OUTPUT.CHECKPOINT_DIR": folder,
        "OUTPUT.SAVE_NAME": "run",
    }
    settings = [f"{key}={value}" for key, value in keys.items()]
    task = ROOT / "configs" / "rsicd" / "vsepp_original.yaml"
    command = [sys.executable, ROOT / "tools" / "train_retrieval.py", "--cfg_file", task, *settings]
    subprocess.run(command, check=True, env=untuned(), stdout=subprocess.DEVNULL)
    run = folder / "run"
    np.savez(folder / WEIGHTS, **read_safetensors(run / "best" / "model.safetensors"))
    return run


def evaluate(run: Path, *settings: str) -> None:
    tool = ROOT / "tools" / "eval_retrieval.py"
    command = [sys.executable, tool, "--cfg_file", run, "EVAL.SPLIT=test", *settings]
    subprocess.run(command, check=True, env=untuned(), stdout=subprocess.DEVNULL)


def recalls(run: Path, tie_rule: str) -> dict[str, float]:
    evaluate(run, f"EVAL.TIE_RULE={tie_rule}")
    return json.loads((run / "eval_test" / "result.json").read_text())["metrics"]


def check_recalls(against: dict, favour: dict, twin: dict) -> None:
    """Raise RuntimeError where a recall of the twin is beyond both tie rules, by more than one query.

    Sentences that describe several images tie, and the original takes them in the order of its sort; rounding
    may move a query.
    """
    for key, value in twin.items():
        if not against[key] - 100 / 1093 <= value <= favour[key] + 100 / 1093:
            raise RuntimeError(f"{key}: ours {against[key]} to {favour[key]}, the original {value}")


if __name__ == "__main__":
    main()
