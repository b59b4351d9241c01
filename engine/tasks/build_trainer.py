"""Builds the trainer of a run from its configuration."""

import os
from pathlib import Path

import paddle
from yacs.config import CfgNode

from config.default import KEYS, Key
from config.errors import UserError
from config.load import with_whole_paths
from datasets.image_dataset import ClassNames
from datasets.words.unknown_words import warn_of_unknown
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.runs.checkpoint import MODEL_FILE, TRAINER_FILE, read_arrays, read_state, save_checkpoint
from engine.runs.run_folder import RunFolder
from engine.runs.run_log import RunLog
from engine.tasks.kinds import kind_of
from engine.tasks.task import Start, Task
from engine.training.collapse_guard import CollapseGuard
from engine.training.settings import TrainingSettings
from engine.training.trainer import Trainer
from engine.training.training_state import Arrays, epoch_length, named_parameters, restore_training
from models.kernels.choice import chosen, repeat
from models.layers.synchronised_norm import synchronise_batch_norms
from solvers.optimizer import build_optimizer
from solvers.scheduler import build_schedule


def build_trainer(
    cfg: CfgNode,
    folder: RunFolder,
    log: RunLog,
    resume_from: Path | None,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Trainer, Vocabulary | WordPiece | ClassNames]:
    """Return the trainer of a new run or of a resumed one, and the vocabulary of its model.

    `resume_from` is the checkpoint to resume; its files were checked by `newest_whole`. A new run starts from
    the weights and the vocabulary at PRETRAINED.DIR, or, without it, builds the vocabulary from the training
    split. The "vocabulary" of an image encoder is the classes of the training split.
    """
    start = Start(resume_from, rank, world_size, log.print_line)
    task = kind_of(cfg).training(cfg, start)
    model, loss = task.model, task.loss
    if world_size > 1 and cfg.MODEL.SYNC_BATCHNORM:
        synchronise_batch_norms(model)
    log.print_line(_describe(cfg, task))
    for data in (task.training, task.dev):
        warning = warn_of_unknown(data.name, data.unknown_share())
        if warning:
            log.print_line(warning)

    fingerprints = {data.name: data.fingerprint() for data in (task.training, task.dev)}

    def save(names: list[str], model_arrays: Arrays, trainer_arrays: Arrays, values: dict) -> None:
        state = {
            "model": cfg.MODEL.NAME,
            "config": with_whole_paths(cfg),
            "data": fingerprints,
            **values,
        }
        words = task.words.to_text(), task.words.file_name
        for name in names:
            path = folder.path / name
            save_checkpoint(path, model_arrays, trainer_arrays, state, *words, path == folder.last)
        folder.prune_epochs(cfg.OUTPUT.KEEP_MAX)

    accumulation = cfg.OPTIMIZATION.GRADIENT_ACCUMULATION_STEPS
    trainer = Trainer(
        model=model,
        loss=loss,
        optimizer=build_optimizer(cfg, named_parameters(model, loss)),
        schedule=build_schedule(cfg, -(-task.batches_of(0, 0)[0] // accumulation)),
        batches_of=task.batches_of,
        settings=TrainingSettings.from_config(cfg),
        log=log,
        validate=task.validate,
        save=save,
        watchers=CollapseGuard.from_config(cfg, loss, log),
        rank=rank,
        world_size=world_size,
        samples=task.samples,
    )
    if resume_from is not None:
        _resume(cfg, folder, resume_from, trainer, task, fingerprints, log)
    return trainer, task.words


def _resume(
    cfg: CfgNode,
    folder: RunFolder,
    checkpoint: Path,
    trainer: Trainer,
    task: Task,
    fingerprints: dict[str, dict[str, str]],
    log: RunLog,
) -> None:
    state = read_state(checkpoint)
    model, rest = (read_arrays(checkpoint, name) for name in (MODEL_FILE, TRAINER_FILE))
    if state["model"] != cfg.MODEL.NAME:
        raise UserError(
            f"{checkpoint} holds a {state['model']} model, MODEL.NAME is {cfg.MODEL.NAME}; set it back"
        )
    if restore_training(trainer, model, rest, state, task.resume_within_epoch):
        before, now = map(_describe_batches, (state["epoch_length"], epoch_length(trainer)))
        log.print_line(
            f"resuming with batches of {now}, before it was {before}: the rest of the epoch is batched anew"
        )
    if (line := _repeat_products(state.get("products", {}))) is not None:
        log.print_line(line)
    changed = changed_keys(state["config"], with_whole_paths(cfg))
    changed += changed_data(state.get("data", {}), fingerprints)
    if changed:
        log.print_line(
            f"resuming with changed {', '.join(changed)}: the run will differ from an undisturbed one"
        )
    if log.enabled:
        folder.trim_log(trainer.position.step, trainer.position.last_validation)
    log.print_line(f"resuming {folder.path} at step {trainer.position.step} (epoch {trainer.position.epoch})")


def _repeat_products(libraries: dict[str, str]) -> str | None:
    """Let the libraries of a checkpoint multiply, whose order of addition a resumed run repeats.

    Return a line for the user if others do from now on; checkpoints of earlier versions name none.
    """
    if not libraries or paddle.get_device() != "cpu":
        return None
    before = chosen()
    if not repeat(libraries):
        names = ", ".join(f"{kind} by {name}" for kind, name in libraries.items())
        return f"resuming with {chosen().describe()}, before it was {names}: the run will differ in rounding"
    return None if chosen() == before else f"resuming with {chosen().describe()}"


def _describe_batches(length: dict) -> str:
    processes = length["processes"]
    return f"{length['batch']} from {processes} process{'es' if processes > 1 else ''}"


def changed_keys(before: dict, now: dict) -> list[str]:
    """Return the keys that differ between two configurations and have an effect on training."""
    steering = ("INPUT", "DATASET", "MODEL", "LOSS", "OPTIMIZATION", "NEGATIVES", "RUNTIME", "MISC")
    without_effect = {"MISC.NUM_WORKERS", "DATASET.NAME", "DATASET.TEST"}
    if not now["MODEL"]["CNN"]:  # a run of features shows pictures in reports alone
        without_effect.add("DATASET.IMAGE_DIR")
    keys = [(section, name) for section in steering for name in now[section]]
    return [
        f"{section}.{name}"
        for section, name in keys
        if not _same(
            KEYS[section][name],
            before.get(section, {}).get(name, KEYS[section][name].default),
            now[section][name],
        )
        and f"{section}.{name}" not in without_effect
    ]


def changed_data(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> list[str]:
    """Return which parts of splits differ between two `fingerprint`s of each, such as `captions of train`.

    A checkpoint of an earlier version has none.
    """
    return [
        f"{part} of {split}"
        for split, parts in now.items()
        for part, value in parts.items()
        if part in before.get(split, {}) and before[split][part] != value
    ]


def _same(key: Key, before: object, now: object) -> bool:
    """Tell whether two values are equal; checkpoints of older runs kept paths as they were typed."""
    return before == now or bool(
        key.path and before and now and os.path.abspath(before) == os.path.abspath(now)
    )


def _describe(cfg: CfgNode, task: Task) -> str:
    parameters = sum(parameter.size for parameter in task.model.parameters())
    name = cfg.DATASET.NAME or cfg.DATASET.DATA_DIR
    return (
        f"data: {name}; {task.training.describe()}; {task.dev.describe()}\n"
        f"model: {cfg.MODEL.NAME}, {parameters / 1e6:.2f} million parameters, {len(task.words)} {task.unit}; "
        f"loss: {cfg.LOSS.NAME}"
    )
