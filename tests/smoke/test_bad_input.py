"""A mistake in what a user gives is one line that names the place, exit code 2, and nothing is lost."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "f8k" / "vsepp.yaml"
TINY = [
    "--cfg_file",
    CONFIG,
    "DATASET.DATA_DIR=data",
    "OUTPUT.CHECKPOINT_DIR=out",
    "OUTPUT.SAVE_NAME=run",
    "INPUT.IMG_FEATURE_DIM=8",
    "INPUT.VOCAB_THRESHOLD=1",
    "MODEL.EMBED_DIM=8",
    "MODEL.WORD_DIM=8",
    "OPTIMIZATION.EPOCHS=1",
    "OPTIMIZATION.BATCH_SIZE=8",
    "RUNTIME.DEVICE=cpu",
]
BIAS = "image_encoder.fc.bias"


def untouched(folder: Path) -> None:
    """Damage nothing."""


@dataclass
class Mistake:
    """A command, what is wrong with the folder that it runs in, and what its line must say."""

    tool: str
    says: list[str]
    damage: Callable[[Path], object] = untouched
    options: Sequence[str] = ()
    task: Sequence[str | Path] = tuple(TINY)
    alone: bool = False  # it is also run in a process of its own, which must say the same


def train(says: list[str], damage: Callable = untouched, *options: str, alone: bool = False) -> Mistake:
    """A mistake in training that would replace the run that is there."""
    return Mistake("train_retrieval", says, damage, ("--overwrite", *options), alone=alone)


def evaluate(says: list[str], damage: Callable = untouched, *options: str, alone: bool = False) -> Mistake:
    return Mistake("eval_retrieval", says, damage, options, alone=alone)


def search(says: list[str], *options: str, damage: Callable = untouched, alone: bool = False) -> Mistake:
    return Mistake("search_retrieval", says, damage, options, alone=alone)


def remove(name: str) -> Callable:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut_in_half(name: str) -> Callable:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def write(name: str, content: str | bytes) -> Callable:
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def line(name: str, number: int, text: str | None) -> Callable:
    """Replace a line, counted from 1, or delete it."""

    def damage(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        lines[number - 1 : number] = [] if text is None else [f"{text}\n"]
        (folder / name).write_text("".join(lines))

    return damage


def rows(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


def with_value(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change of the value in the middle of a row, counted from 1."""

    def change(array: np.ndarray) -> np.ndarray:
        array[row - 1, 4] = value
        return array

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], object], checkpoint: str = "out/run/best") -> Callable:
    """Return a change of a checkpoint's tensors, with the checksum to match, as another program might."""

    def damage(folder: Path) -> None:
        path = folder / checkpoint / "model.safetensors"
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path)
        state = json.loads((path.parent / "state.json").read_text())
        content = path.read_bytes()
        state["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        del state["checksum"]  # of `state.json` itself, which earlier versions wrote without
        (path.parent / "state.json").write_text(json.dumps(state))

    return damage


def query(array: np.ndarray) -> Callable:
    return lambda folder: np.save(folder / "query.npy", array)


TRAIN, DEV, TEST, CAPTIONS = (
    "data/train_ims.npy",
    "data/dev_ims.npy",
    "data/test_ims.npy",
    "data/train_caps.txt",
)
BEST = "out/run/best"
KARPATHY = ["DATASET.FORMAT=karpathy", "DATASET.CAPTION_FILE=dataset.json"]
NO_TEXT = (
    '{"images": [{"filename": "0.jpg", "split": "train", "sentences": [{"raw": "a dog"}, {"raw": " "}]}]}'
)
CSV = ["DATASET.FORMAT=csv", "DATASET.CAPTION_FILE={split}.csv"]

MISTAKES = {
    # Data that training would read.
    "no folder": train(["data: no such folder", "DATASET.DATA_DIR"], remove("data"), alone=True),
    "no features": train([TRAIN, "no such file", "the folder holds dev_ims.npy"], remove(TRAIN)),
    "no captions": train([CAPTIONS, "no such file"], remove(CAPTIONS)),
    "no dev split": train(["data/val_ims.npy", "no such file", "DATASET"], untouched, "DATASET.DEV=val"),
    "a caption too few": train(
        [CAPTIONS, "23 captions for the 12 images", TRAIN, "such as 24 (2 an image; 1 line missing)"],
        line(CAPTIONS, 7, None),
    ),
    "not five captions an image": train(
        [CAPTIONS, "24 captions for the 12 images", "expected 60 (5 an image; 36 lines missing)"],
        untouched,
        "DATASET.CAPTIONS_PER_IMAGE=5",
    ),
    "features cut short": train([TRAIN, "cut short", "expected 512 bytes, got 256"], cut_in_half(TRAIN)),
    "features that are none": train([TRAIN, "not a .npy file"], write(TRAIN, "features")),
    "NaN": train([TRAIN, "row 6", "NaN or infinity"], rows(TRAIN, with_value(6, np.nan)), alone=True),
    "infinity in the dev split": train([DEV, "row 2", "NaN or infinity"], rows(DEV, with_value(2, np.inf))),
    "another width": train(
        [TRAIN, "6 wide", "INPUT.IMG_FEATURE_DIM is 8"], rows(TRAIN, lambda array: array[:, :6])
    ),
    "an empty caption": train([CAPTIONS, "line 5", "empty caption"], line(CAPTIONS, 5, "  ")),
    "captions in another encoding": train(
        [CAPTIONS, "line 2", "0xe9", "UTF-8"], write(CAPTIONS, b"a\n\xe9\n")
    ),
    "no word": train(
        [CAPTIONS, "a vocabulary without words", "'...'", "24 times"],
        lambda folder: [line(CAPTIONS, number, "...")(folder) for number in range(1, 25)],
    ),
    "no word often enough": train(
        [CAPTIONS, "none occurs 999 times", "lower INPUT.VOCAB_THRESHOLD"],
        untouched,
        "INPUT.VOCAB_THRESHOLD=999",
    ),
    "an image twice": train(
        ["data/train_ids.txt line 4", "duplicate image id 'train_0.jpg'", "also line 1"],
        line("data/train_ids.txt", 4, "train_0.jpg"),
    ),
    "an id too few": train(
        ["data/train_ids.txt", "11 image ids", "12 rows"], line("data/train_ids.txt", 4, None)
    ),
    "no text in Karpathy's JSON": train(
        ["data/dataset.json", "images[0] ('0.jpg').sentences[1]", "empty caption"],
        write("data/dataset.json", NO_TEXT),
        *KARPATHY,
    ),
    "no text in a CSV file": train(
        ["data/train.csv line 3", "empty caption"],
        write("data/train.csv", "image,caption\n1,a dog\n1,\n"),
        *CSV,
    ),
    "a vocabulary that is a folder": train(
        ["data", "no such vocabulary"], untouched, "INPUT.VOCAB_FILE=data"
    ),
    # Data that an evaluation or a search would read.
    "test features cut short": evaluate([TEST, "cut short"], cut_in_half(TEST)),
    "NaN in the test split": evaluate([TEST, "row 3", "NaN or infinity"], rows(TEST, with_value(3, np.nan))),
    "test captions that do not match": evaluate(
        ["data/test_caps.txt", "7 captions for the 4 images"], line("data/test_caps.txt", 1, None)
    ),
    "swapped captions of no image": evaluate(
        ["data/test_swapped.jsonl, line 1", "image_id, kind, caption and swapped"],
        write("data/test_swapped.jsonl", '{"image_id": "test_0.jpg"}\n'),
    ),
    "fewer images than folds": evaluate(["EVAL.FOLDS", "4 in test", "got 5"], untouched, "EVAL.FOLDS=5"),
    "a search in broken features": search(
        [TEST, "row 1"], "--text", "a dog", damage=rows(TEST, with_value(1, -np.inf))
    ),
    # Checkpoints.
    "not trained yet": evaluate(
        ["no checkpoint at out/none/best", "tools/train_retrieval.py", "EVAL.CHECKPOINT_DIR"],
        untouched,
        "OUTPUT.SAVE_NAME=none",
        alone=True,
    ),
    "a checkpoint of another model": evaluate(
        ["holds a vsepp model", "MODEL.NAME=vsepp"], untouched, "MODEL.NAME=vse"
    ),
    "a checkpoint of another shape": evaluate(
        [BEST, "image_encoder.fc.weight", "shape [8, 8]", "[8, 9]"], untouched, "MODEL.EMBED_DIM=9"
    ),
    "a checkpoint of another depth": evaluate([BEST, "lacks", "_l1"], untouched, "MODEL.NUM_LAYERS=2"),
    "a missing tensor": evaluate([BEST, "lacks", BIAS], tensors(lambda arrays: arrays.pop(BIAS))),
    "an extra tensor": evaluate(
        [BEST, "has unexpected stray"], tensors(lambda arrays: arrays.update(stray=arrays[BIAS]))
    ),
    "a misshapen tensor": evaluate(
        [BEST, BIAS, "shape [7]", "expects [8]"],
        tensors(lambda arrays: arrays.update({BIAS: arrays[BIAS][1:]})),
    ),
    "weights that are not finite": evaluate(
        ["finite embeddings", "image test_0.jpg"], tensors(lambda arrays: arrays[BIAS].fill(np.nan))
    ),
    "a checkpoint cut in half": evaluate(
        [f"{BEST}/model.safetensors", "cannot be read"], cut_in_half(f"{BEST}/model.safetensors"), alone=True
    ),
    "a state cut in half": evaluate(
        [f"{BEST}/state.json", "not the state"], cut_in_half(f"{BEST}/state.json")
    ),
    "a state without its step": evaluate(
        [f"{BEST}/state.json", "not the state"],
        lambda folder: write(
            f"{BEST}/state.json",
            (folder / BEST / "state.json").read_text().replace('"progress"', '"regress"'),
        )(folder),
    ),
    "a checkpoint without its words": evaluate([BEST, "lacks vocab.json"], remove(f"{BEST}/vocab.json")),
    "a changed vocabulary": evaluate(
        [f"{BEST}/vocab.json", "damaged"], line(f"{BEST}/vocab.json", 12, '  "changed",')
    ),
    "data for a checkpoint": evaluate(["data", "<run>/best"], untouched, "EVAL.CHECKPOINT_DIR=data"),
    "weights to start from that do not fit": train(
        [BEST, "image_encoder.fc.weight", "shape [8, 8]", "[8, 9]"],
        untouched,
        f"PRETRAINED.DIR={BEST}",
        "MODEL.EMBED_DIM=9",
    ),
    # Queries.
    "an unknown image": search(
        ["--image: 'test_9.jpg'", "did you mean test_"], "--image", "test_9.jpg", alone=True
    ),
    "unknown words": search(["--text: no word of 'zebra quagga'"], "--text", "zebra quagga"),
    "no words": search(["--text: expected a sentence"], "--text", " "),
    "no query": search(["--text --queries --image is required"]),
    "two queries": search(
        ["--image: not allowed with argument --text"], "--text", "a dog", "--image", "test_1.jpg"
    ),
    "no hits": search(["--top_k: expected at least 1, got 0"], "--text", "a dog", "--top_k", "0"),
    "features to search with of another width": search(
        ["query.npy", "expected numbers of shape [8]", "got float64 of shape [7]"],
        "--image",
        "query.npy",
        damage=query(np.ones(7)),
    ),
    "features to search with that hold NaN": search(
        ["query.npy", "row 2", "NaN"],
        "--image",
        "query.npy",
        damage=query(np.array([[1.0] * 8, [np.nan] * 8])),
    ),
    # The configuration and the command line.
    "a misspelt key": train(
        ["MODEL.EMBED_DIMS", "did you mean MODEL.EMBED_DIM?"], untouched, "MODEL.EMBED_DIMS=4", alone=True
    ),
    "a fraction for a whole number": train(
        ["MODEL.EMBED_DIM", "whole number", "got 4.5"], untouched, "MODEL.EMBED_DIM=4.5"
    ),
    "an unknown choice": train(
        ["MODEL.NAME", "one of vse, vsepp", "did you mean vsepp?"], untouched, "MODEL.NAME=vsep"
    ),
    "a value out of range": train(["OPTIMIZATION.LR", "above 0", "got -1"], untouched, "OPTIMIZATION.LR=-1"),
    "a key and a value apart": train(["write OPTIMIZATION.LR=3"], untouched, "OPTIMIZATION.LR", "3"),
    "a misspelt option": evaluate(
        ["--save_scored", "did you mean --save_scores?"], untouched, "--save_scored", "x.npz"
    ),
    "a key as an option": train(
        ["--lr", "write OPTIMIZATION.LR=VALUE without the dashes"], untouched, "--lr", "3"
    ),
    "a key twice in a file": Mistake(
        "train_retrieval",
        ["task.yaml, line 3", "MODEL.NAME"],
        write("task.yaml", "MODEL:\n  NAME: vse\n  NAME: vsepp\n"),
        task=["--cfg_file", "task.yaml"],
    ),
    "no task file": Mistake(
        "train_retrieval", ["nope.yaml: there is no such"], task=["--cfg_file", "nope.yaml"]
    ),
    "no --cfg_file": Mistake("eval_retrieval", ["expected --cfg_file F", "got none"], task=[]),
    "a folder that is no run": Mistake(
        "eval_retrieval", ["data: expected a task file or", "a run"], task=["--cfg_file", "data"]
    ),
    # Places that cannot be written to.
    "a result in a file": evaluate(
        ["cannot write", "data/test_ids.txt", "--out"], untouched, "--out", "data/test_ids.txt"
    ),
    "scores in a file": evaluate(
        ["cannot write the scores", "--save_scores"],
        untouched,
        "--save_scores",
        "data/test_ids.txt/scores.npz",
    ),
    "hits in a file": search(["cannot write", "--out"], "--text", "a dog", "--out", "data/test_ids.txt"),
    "a report in a folder": Mistake(
        "make_report",
        ["cannot write data: it is a folder", "--out"],
        options=["--out", "data"],
        task=["out/run"],
    ),
    # Runs to report on.
    "no run to report on": Mistake(
        "make_report", ["out/none is not a run", "config.yaml"], task=["out/none"]
    ),
    "a report on a run without a checkpoint": Mistake(
        "make_report", ["no checkpoint at out/run/best"], remove(BEST), task=["out/run"]
    ),
}


@pytest.fixture(scope="module")
def work(run_quickly, write_split, tmp_path_factory) -> Path:
    """Return a folder with data and a run of all tools on it, which nobody may change."""
    folder = tmp_path_factory.mktemp("work")
    for split, images in (("train", 12), ("dev", 4), ("test", 4)):
        write_split(folder / "data", split, images, 8, captions_per_image=2, ids=True)
    for tool, *options in (
        ("train_retrieval",),
        ("eval_retrieval",),
        ("search_retrieval", "--text", "a dog"),
    ):
        done = run_quickly(tool, *TINY, *options, cwd=folder)
        assert done.returncode == 0, done.stderr
    report = run_quickly("make_report", "out/run", cwd=folder)
    assert report.returncode == 0 and report.stderr == "", report.stderr
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_loses_nothing(work, run_quickly, run_tool, tmp_path, name):
    mistake = MISTAKES[name]
    folder = tmp_path / "here"
    shutil.copytree(work, folder)
    mistake.damage(folder)
    before = contents(folder)
    command = [mistake.tool, *mistake.task, *mistake.options]
    done = run_quickly(*command, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(text in done.stderr for text in mistake.says), done.stderr
    assert contents(folder) == before
    if mistake.alone:
        alone = run_tool(*command, cwd=folder)
        assert (alone.returncode, alone.stderr) == (2, done.stderr)
        assert contents(folder) == before


def test_a_refused_start_leaves_no_folder(work, run_quickly, tmp_path):
    """The run's folder is made and locked before the data are read, and goes again with all above it."""
    folder = tmp_path / "here"
    shutil.copytree(work, folder)
    cut_in_half(DEV)(folder)
    before = sorted(folder.rglob("*"))
    done = run_quickly("train_retrieval", *TINY, "OUTPUT.CHECKPOINT_DIR=new/out", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "cut short" in done.stderr, done.stderr
    assert sorted(folder.rglob("*")) == before
