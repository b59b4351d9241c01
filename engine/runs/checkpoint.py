"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    best/  last/  epoch_N/
        model.safetensors      the weights to evaluate and serve; averaged ones with OPTIMIZATION.EMA_DECAY
        trainer.safetensors    the other tensors of a resume: `optimizer.<moment>/<parameter>`,
                               `loss.<tensor>` and, if model.safetensors holds averaged weights, the trained
                               ones as `weights.<tensor>`
        state.json             plain values
            format, checksum   1; the SHA-256 of all other values in the file
            files              bytes and sha256 of each other file, by name
            model, config      the model family; the complete configuration
            data               what tells the training and dev data from others (`fingerprint` of a data set)
            progress           where training stood: the fields of `engine.training.position.TrainingPosition`
            watchers           the state of each watcher by its name, such as `collapse_guard`
            epoch_length       batches, steps and samples of an epoch, size of a global batch, processes
            products           the library that multiplied each kind of product on the CPU, such as mkl
            scaler             the loss scaler's state with RUNTIME.AMP=float16, otherwise empty
            untrained          of a converted checkpoint: first parts of the names of layers that it lacks,
                               such as `classifier.`, which start with random weights
        vocab.json             the vocabulary that the weights belong to; of a cross encoder vocab.txt

`engine.training.training_state.todays_layout` translates the names in `progress` of earlier versions.

A new checkpoint is written in a folder beside `last/`, which then takes its place. The previous `last/` is
kept as `.last.old/`. The previous `.last.old/` is deleted only when the new one is in place, so that a kill
at any moment leaves two whole checkpoints. `resolve_checkpoint` and `newest_whole` fall back on `.last.old/`
if `last/` is damaged or missing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError, cut
from config.files.whole import flush_to_disk
from engine.runs.run_status import STATUS_FILE, read_status
from engine.weights.tensor_files import read_safetensors, save_safetensors
from engine.weights.tensors import assign_arrays, check_arrays, layer_tensors

if TYPE_CHECKING:
    import paddle

MODEL_FILE = "model.safetensors"
TRAINER_FILE = "trainer.safetensors"
STATE_FILE = "state.json"
VOCABULARY_FILE = "vocab.json"
FORMAT = 1
TRAINING_HEADS = ("words.", "captioner.")  # of oscar and vsrn: no evaluation needs them


def save_checkpoint(
    folder: str | Path,
    model: dict[str, np.ndarray],
    trainer: dict[str, np.ndarray],
    state: dict,
    vocabulary_text: str,
    vocabulary_file: str = VOCABULARY_FILE,
    keep_before: bool = False,
) -> None:
    """Write a checkpoint into `folder`, which never holds an unfinished one.

    With `keep_before`, the checkpoint that is replaced stays in `.<name>.old`. Raises UserError if the disk
    is full or refuses; `folder` is then as it was.
    """
    folder = Path(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        (new / vocabulary_file).write_text(vocabulary_text, encoding="utf-8")
        for name, arrays in ((MODEL_FILE, model), (TRAINER_FILE, trainer)):
            save_safetensors(new / name, arrays)
        write_state(new, state, {})
        for path in (*new.iterdir(), new):
            flush_to_disk(path)
        _replace_folder(new, folder, keep_before)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = error.strerror or error
        kept = "the checkpoint before it is intact" if folder.exists() else "nothing was left in its place"
        raise UserError(
            f"cannot write checkpoint {folder}: {reason}; {kept}; free some space, then go on with --resume"
        ) from error


def write_state(folder: Path, state: dict, known: dict[str, dict]) -> None:
    """Write `state.json` into the folder of a checkpoint whose other files are complete.

    `known` holds `bytes` and `sha256` of files by name, as far as they are known. Raises OSError.
    """
    files = {path.name: known.get(path.name) or _fingerprint(path) for path in sorted(folder.iterdir())}
    content = {"format": FORMAT, **state, "files": files}
    content["checksum"] = _state_checksum(content)
    (folder / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _replace_folder(new: Path, folder: Path, keep_before: bool) -> None:
    # Unlike the names of drafts, these names hold no process id: a resume finds the previous checkpoint, and
    # the next checkpoint overwrites the leftovers of a killed process, which are as large as the model.
    old, older = _before(folder)
    if folder.exists():
        if old.exists():  # deleted only below, so that a kill at any moment leaves two whole ones
            shutil.rmtree(older, ignore_errors=True)
            os.rename(old, older)
        os.rename(folder, old)
    os.rename(new, folder)
    flush_to_disk(folder.parent)
    shutil.rmtree(older, ignore_errors=True)
    if not keep_before:
        shutil.rmtree(old, ignore_errors=True)


def _before(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the previous checkpoint, and of the one before it while a new one moves in."""
    return folder.with_name(f".{folder.name}.old"), folder.with_name(f".{folder.name}.older")


def _fingerprint(path: Path) -> dict:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _state_checksum(state: dict) -> str:
    """Return the SHA-256 of the values of `state.json`, in the types that JSON reads back."""
    text = json.dumps(json.loads(json.dumps(state)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _candidates(folder: Path) -> list[Path]:
    old, older = _before(folder)
    return [folder, old, *([older] if older.exists() else [])]


_STATES = {  # of `read_status`, in words
    "running": "is still training,",
    "silent": "has been silent for minutes,",
    "died": "died",
    "stopped": "was stopped",
    "failed": "failed",
    "finished": "finished",
}


def is_checkpoint(folder: str | Path) -> bool:
    """Tell whether `resolve_checkpoint` would find a checkpoint."""
    folder = Path(folder)
    return any((candidate / STATE_FILE).is_file() for candidate in (*_candidates(folder), folder / "best"))


def resolve_checkpoint(folder: str | Path) -> Path:
    """Return `folder`, or the previous checkpoint beside it if a kill between two renames left no `folder`.

    Raises UserError if neither exists.
    """
    folder = Path(folder)
    for candidate in (*_candidates(folder), folder / "best"):  # a run's folder stands for its best checkpoint
        if (candidate / STATE_FILE).is_file():
            return candidate
    what = f"it has no {STATE_FILE}" if folder.is_dir() else "no such folder"
    run = folder.parent
    status = read_status(run, datetime.now(timezone.utc)) if (run / STATUS_FILE).is_file() else {}
    if status.get("state", "unknown") != "unknown":
        last = run / "last"
        advice = "wait for its first validation" if status["state"] == "running" else "go on with --resume"
        if folder != last and is_checkpoint(last):
            advice += f", or use EVAL.CHECKPOINT_DIR={last}"
        raise UserError(
            f"no checkpoint at {folder}: the run {_STATES[status['state']]} at step {status.get('step')} of "
            f"{status.get('steps')}; {advice}"
        )
    raise UserError(
        f"no checkpoint at {folder}: {what}; train the run first with tools/train_retrieval.py, or name a "
        f"folder such as <run>/best in EVAL.CHECKPOINT_DIR (PRETRAINED.DIR for training)"
    )


def read_state(folder: str | Path) -> dict:
    """Return a checkpoint's `state.json`; raise UserError if it is damaged or of another format."""
    return _read_state(resolve_checkpoint(folder))


def _read_state(folder: Path) -> dict:
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        state["files"][MODEL_FILE], state["progress"]["step"]
        [(each["bytes"], each["sha256"]) for each in state["files"].values()]
        version = state["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder / STATE_FILE}: not the state of a checkpoint ({cut(error, 80)}); use another checkpoint"
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{folder / STATE_FILE}: expected a checkpoint of format {FORMAT}, got {cut(repr(version))}; use "
            f"the version of the toolkit that wrote it"
        )
    checksum = state.pop("checksum", None)  # earlier versions wrote none
    if checksum is not None and checksum != _state_checksum(state):
        raise UserError(
            f"{folder / STATE_FILE} is damaged: its values do not add up to its checksum; use another "
            f"checkpoint"
        )
    return state


def newest_whole(folder: str | Path) -> tuple[Path, str]:
    """Return the checkpoint `folder`, or the previous one if it is damaged or missing, and a text.

    All files of the returned checkpoint were checked. The text is empty, or says what is wrong with `folder`.
    Raises UserError if no checkpoint is whole.
    """
    folder = Path(folder)
    resolve_checkpoint(folder)  # raises where there is none
    problems = []
    for candidate in _candidates(folder):
        if not (candidate / STATE_FILE).is_file():
            problems.append(f"{candidate} is gone, or lacks {STATE_FILE}")
            continue
        try:
            verify_files(candidate, _read_state(candidate))
        except UserError as error:
            problems.append(str(error))
        else:
            return candidate, problems[0].partition(";")[0] if problems else ""
    raise UserError(
        f"no checkpoint to go on from: {'; '.join(problem.partition(';')[0] for problem in problems)}; start "
        f"again with --overwrite, or in another OUTPUT.SAVE_NAME with PRETRAINED.DIR={folder.parent / 'best'}"
    )


def verify_files(folder: str | Path, state: dict) -> None:
    """Raise UserError that names the first file of a checkpoint that is missing or damaged."""
    folder = resolve_checkpoint(folder)
    for name, expected in state["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"checkpoint {folder} lacks {name}; use another checkpoint")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(
                f"{path} is damaged: expected {expected['bytes']} bytes, found {size}; use another checkpoint"
            )
        if _fingerprint(path)["sha256"] != expected["sha256"]:
            raise UserError(
                f"{path} is damaged: its checksum differs from {STATE_FILE}; use another checkpoint"
            )


def checkpoint_hash(state: dict) -> str:
    """Return the SHA-256 of the model weights that `state` belongs to."""
    return state["files"][MODEL_FILE]["sha256"]


def read_arrays(folder: str | Path, name: str) -> dict[str, np.ndarray]:
    """Return the tensors of one safetensors file of a checkpoint."""
    return read_safetensors(resolve_checkpoint(folder) / name, remedy="; use another checkpoint")


def cnn_of_checkpoint(folder: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of the CNN in a trained model, under the names that they have in the CNN alone.

    Raises UserError for a damaged checkpoint, and for a model without a CNN.
    """
    state = read_state(folder)
    verify_files(folder, state)
    arrays = {}
    for name, array in read_arrays(folder, MODEL_FILE).items():
        _, part, own = f".{name}".partition(".cnn.network.")
        if part:
            arrays[own] = array
    if not arrays:
        raise UserError(
            f"{folder}: its {state.get('model')} model has no CNN, expected one trained with MODEL.CNN"
        )
    return arrays


def check_family(folder: str | Path, model_name: str) -> dict:
    """Return a checkpoint's `state.json`; raise UserError if it is of another model family."""
    state = read_state(folder)
    if state.get("model") != model_name:
        raise UserError(
            f"checkpoint {folder} holds a {state.get('model')} model, the configuration asks for "
            f"{model_name}; "
            f"set MODEL.NAME={state.get('model')} or use the config.yaml of its own run"
        )
    return state


def load_model(folder: str | Path, model: "paddle.nn.Layer", model_name: str) -> dict:
    """Load a checkpoint's weights into `model`, strictly, and return its `state.json`.

    Layers that the checkpoint names as `untrained` keep their initial weights. Raises UserError for a damaged
    checkpoint, one of another model family, or one with other tensors.
    """
    return _load(folder, model, model_name, ())[0]


def start_from(folder: str | Path, model: "paddle.nn.Layer", model_name: str) -> str:
    """Load a checkpoint's weights into a `model` that is to be trained; return a line about the weights.

    A head that only training needs may be in the model or in the checkpoint alone. Raises UserError as
    `load_model` does.
    """
    state, fresh, dropped = _load(folder, model, model_name, TRAINING_HEADS)
    new = [*fresh, *state.get("untrained", [])]
    parts = [
        f"weights: {folder}",
        f"new: {', '.join(part.rstrip('.') for part in new)}" if new else "",
        f"left out: {', '.join(part.rstrip('.') for part in dropped)}" if dropped else "",
    ]
    return "; ".join(filter(None, parts))


def _load(
    folder: str | Path, model: "paddle.nn.Layer", model_name: str, heads: tuple[str, ...]
) -> tuple[dict, list[str], list[str]]:
    """Load a checkpoint; return its state, the `heads` that it lacks, and those that the model lacks."""
    state = check_family(folder, model_name)
    arrays, names = read_arrays(folder, MODEL_FILE), layer_tensors(model).keys()
    fresh = [head for head in heads if _has(names, head) and not _has(arrays, head)]
    dropped = [head for head in heads if _has(arrays, head) and not _has(names, head)]
    arrays = {name: array for name, array in arrays.items() if not name.startswith(tuple(dropped))}
    absent = (*fresh, *state.get("untrained", []))
    check_arrays(model, arrays, str(Path(folder) / MODEL_FILE), absent)
    verify_files(folder, state)
    assign_arrays(model, arrays)
    return state, fresh, dropped


def _has(names: Iterable[str], head: str) -> bool:
    return any(name.startswith(head) for name in names)
