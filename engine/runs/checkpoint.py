"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    best/  last/  epoch_N/
        model.safetensors      what is evaluated and served; with OPTIMIZATION.EMA_DECAY the averaged weights
        trainer.safetensors    what a resume needs besides: `optimizer.<moment>/<parameter>`, `loss.<tensor>`
                               and, beside averaged weights, the trained ones as `weights.<tensor>`
        state.json             plain values
            format, checksum   1; SHA-256 of all other values here
            files              bytes and sha256 of each other file, by name
            model, config      the model family; the configuration, complete
            progress           where training stood: the fields of `engine.training.position.TrainingPosition`
            watchers           the state of each watcher by its name, such as `collapse_guard`
            epoch_length       batches, steps and samples of an epoch, size of a global batch, processes
            scaler             the loss scaler's state with RUNTIME.AMP=float16, otherwise empty
        vocab.json             the vocabulary that the weights belong to; of a cross encoder vocab.txt

Earlier versions wrote some names in `progress` otherwise: see `engine.training.training_state.todays_layout`.

A new checkpoint is written beside its target and renamed over it. The one before is moved aside first
and deleted last, so that a crash at any moment leaves one that is whole; `resolve_checkpoint` finds it. That
before `last/` is kept, as `.last.old/`: `newest_whole` falls back on it where `last/` is damaged or gone.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import paddle
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from config.errors import UserError
from engine.weights.tensors import assign_arrays, check_arrays

MODEL_FILE = "model.safetensors"
TRAINER_FILE = "trainer.safetensors"
STATE_FILE = "state.json"
VOCABULARY_FILE = "vocab.json"
FORMAT = 1


def save_checkpoint(
    folder: str | Path,
    model: dict[str, np.ndarray],
    trainer: dict[str, np.ndarray],
    state: dict,
    vocabulary_text: str,
    vocabulary_file: str = VOCABULARY_FILE,
    keep_before: bool = False,
) -> None:
    """Write a checkpoint folder; `folder` holds either the old one or the whole new one at any time.

    keep_before: leave the one that it replaces in `.<name>.old`. Raises UserError when the disk is full or
    refuses; `folder` is then as it was.
    """
    folder = Path(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        (new / vocabulary_file).write_text(vocabulary_text, encoding="utf-8")
        for name, arrays in ((MODEL_FILE, model), (TRAINER_FILE, trainer)):
            save_file(arrays, new / name)
            shutil.copymode(new / vocabulary_file, new / name)  # the library makes its files private
        files = {path.name: _fingerprint(path) for path in sorted(new.iterdir())}
        content = {"format": FORMAT, **state, "files": files}
        content["checksum"] = _state_checksum(content)
        (new / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        for path in (*new.iterdir(), new):
            _sync(path)
        _replace_folder(new, folder, keep_before)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        kept = "the checkpoint before it is intact" if folder.exists() else "nothing was left in its place"
        raise UserError(
            f"cannot write checkpoint {folder}: {reason}; {kept}; free some space, then go on with --resume"
        ) from error


def _replace_folder(new: Path, folder: Path, keep_before: bool) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    _sync(folder.parent)
    if not keep_before:
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _state_checksum(state: dict) -> str:
    """Return the SHA-256 of the values in `state.json`, as they are read back."""
    text = json.dumps(json.loads(json.dumps(state)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _candidates(folder: Path) -> tuple[Path, Path]:
    return folder, folder.with_name(f".{folder.name}.old")


def is_checkpoint(folder: str | Path) -> bool:
    """Tell whether `resolve_checkpoint` would find one."""
    return any((candidate / STATE_FILE).is_file() for candidate in _candidates(Path(folder)))


def resolve_checkpoint(folder: str | Path) -> Path:
    """Return the folder that holds the checkpoint: itself, or its predecessor after a crash in mid-rename.

    Raises UserError when neither exists.
    """
    folder = Path(folder)
    for candidate in _candidates(folder):
        if (candidate / STATE_FILE).is_file():
            return candidate
    what = f"it has no {STATE_FILE}" if folder.is_dir() else "no such folder"
    raise UserError(
        f"no checkpoint at {folder}: {what}; train the run first with tools/train_retrieval.py, or name a "
        f"folder such as <run>/best in EVAL.CHECKPOINT_DIR (PRETRAINED.DIR for training)"
    )


def read_state(folder: str | Path) -> dict:
    """Return `state.json` of a checkpoint; raise UserError where it is damaged or of another format."""
    return _read_state(resolve_checkpoint(folder))


def _read_state(folder: Path) -> dict:
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        state["files"][MODEL_FILE]["sha256"], state["progress"]["step"]
        version = state["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / STATE_FILE}: not the state of a checkpoint ({error}); use another checkpoint"
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{folder / STATE_FILE}: expected a checkpoint of format {FORMAT}, got {version}; use the "
            f"version of the toolkit that wrote it"
        )
    checksum = state.pop("checksum", None)  # those of earlier versions have none
    if checksum is not None and checksum != _state_checksum(state):
        raise UserError(
            f"{folder / STATE_FILE} is damaged: its values do not add up to its checksum; use another "
            f"checkpoint"
        )
    return state


def newest_whole(folder: str | Path) -> tuple[Path, str]:
    """Return the checkpoint `folder`, or the one before where it is damaged or gone; check all its files.

    The text is empty, or says what is wrong with `folder`. Raises UserError where no checkpoint is whole.
    """
    folder = Path(folder)
    if not is_checkpoint(folder):
        resolve_checkpoint(folder)
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
    """Check size and checksum of a checkpoint's files; raise UserError that names the damaged one."""
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
    path = resolve_checkpoint(folder) / name
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); use another checkpoint") from error


def check_family(folder: str | Path, model_name: str) -> dict:
    """Return a checkpoint's state; raise UserError where it is of another model family."""
    state = read_state(folder)
    if state.get("model") != model_name:
        raise UserError(
            f"checkpoint {folder} holds a {state.get('model')} model, the configuration asks for "
            f"{model_name}; "
            f"set MODEL.NAME={state.get('model')} or use the config.yaml of its own run"
        )
    return state


def load_model(folder: str | Path, model: paddle.nn.Layer, model_name: str) -> dict:
    """Load a checkpoint's weights into `model`, strictly, and return its state.

    Raises UserError for a damaged checkpoint, one of another model family, or one whose tensors differ.
    """
    state = check_family(folder, model_name)
    arrays = read_arrays(folder, MODEL_FILE)
    check_arrays(model, arrays, str(Path(folder) / MODEL_FILE))
    verify_files(folder, state)
    assign_arrays(model, arrays)
    return state
