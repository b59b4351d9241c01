"""Build what a tool needs from its configuration: a trainer, or a trained model."""

from collections.abc import Sequence
from pathlib import Path

import paddle
from yacs.config import CfgNode

from config.errors import UserError
from config.load import config_as_dict
from datasets.build import build_dataset, build_sampler, build_vocabulary
from datasets.loader import iterate_batches
from datasets.retrieval_dataset import RetrievalDataset
from datasets.scenes import load_swapped
from datasets.text import Vocabulary
from engine.checkpoint import (
    MODEL_FILE,
    TRAINER_FILE,
    VOCABULARY_FILE,
    load_model,
    read_arrays,
    read_state,
    resolve_checkpoint,
    save_checkpoint,
    verify_files,
)
from engine.evaluator import evaluate
from engine.progress import TrainingSettings
from engine.result import Result
from engine.run_folder import RunFolder
from engine.run_log import RunLog
from engine.swapped import Pair, swapped_accuracy
from engine.trainer import Trainer
from engine.training_state import named_parameters, restore_training, training_state
from models.build import build_loss, build_model
from solvers.optimizer import build_optimizer
from solvers.scheduler import build_schedule


def run_folder(cfg: CfgNode) -> RunFolder:
    """Return the folder of the run that `cfg` describes."""
    return RunFolder(Path(cfg.OUTPUT.CHECKPOINT_DIR) / cfg.OUTPUT.SAVE_NAME)


def build_trainer(
    cfg: CfgNode, folder: RunFolder, log: RunLog, resume: bool, rank: int = 0, world_size: int = 1
) -> tuple[Trainer, Vocabulary]:
    """Return the trainer of a new run, of one that starts from PRETRAINED.DIR, or of one that goes on.

    The vocabulary is built anew, or is the one of the checkpoint that training starts from.
    """
    origin = folder.last if resume else cfg.PRETRAINED.DIR
    vocabulary = read_vocabulary(origin) if origin else build_vocabulary(cfg)
    training = build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=True)
    dev = build_dataset(cfg, cfg.DATASET.DEV, vocabulary, training=False)
    if rank == 0 and not resume:  # a bad value is found before a run is replaced, not hours later
        training.check_features()
        dev.check_features()
    moments = training.feature_moments() if cfg.INPUT.STANDARDIZE and not origin else (None, None)
    model, loss = build_model(cfg, len(vocabulary), *moments), build_loss(cfg)
    if origin and not resume:
        load_model(origin, model, cfg.MODEL.NAME)
    sampler = build_sampler(cfg, training, rank, world_size)
    log.say(_describe(cfg, training, dev, vocabulary, model))

    def batches_of(epoch: int, start: int):
        batches = sampler.batches(epoch)
        return len(batches), iterate_batches(training.batch, batches, cfg.MISC.NUM_WORKERS, start)

    def validate() -> dict[str, float]:
        return evaluate(
            model,
            dev,
            cfg.DATASET.DEV,
            tie_rule=cfg.EVAL.TIE_RULE,
            batch_size=cfg.EVAL.BATCH_SIZE,
            block_size=cfg.EVAL.BLOCK_SIZE,
            progress=lambda *_: trainer.check_signal(),
        ).metrics

    def save(name: str) -> None:
        if rank == 0:
            model_arrays, trainer_arrays, values = training_state(trainer)
            state = {"model": cfg.MODEL.NAME, "config": config_as_dict(cfg), **values}
            save_checkpoint(folder.path / name, model_arrays, trainer_arrays, state, vocabulary.to_json())
            folder.prune_epochs(cfg.OUTPUT.KEEP_MAX)

    accumulation = cfg.OPTIMIZATION.GRADIENT_ACCUMULATION_STEPS
    trainer = Trainer(
        model=model,
        loss=loss,
        optimizer=build_optimizer(cfg, named_parameters(model, loss)),
        schedule=build_schedule(cfg, -(-len(sampler.batches(0)) // accumulation)),
        batches_of=batches_of,
        settings=TrainingSettings.from_config(cfg),
        log=log,
        validate=validate,
        save=save,
        rank=rank,
        world_size=world_size,
    )
    if resume:
        _resume(cfg, folder, trainer, log)
    return trainer, vocabulary


def _resume(cfg: CfgNode, folder: RunFolder, trainer: Trainer, log: RunLog) -> None:
    state = read_state(folder.last)
    model, rest = (read_arrays(folder.last, name) for name in (MODEL_FILE, TRAINER_FILE))
    verify_files(folder.last, state)
    if state["model"] != cfg.MODEL.NAME:
        raise UserError(
            f"{folder.last} holds a {state['model']} model, MODEL.NAME is {cfg.MODEL.NAME}; set it back"
        )
    restore_training(trainer, model, rest, state)
    changed = changed_keys(state["config"], config_as_dict(cfg))
    if changed:
        log.say(f"resuming with changed {', '.join(changed)}: the run will differ from an undisturbed one")
    if log.enabled:
        folder.trim_log(trainer.progress.step, trainer.progress.last_validation)
    log.say(f"resuming {folder.path} at step {trainer.progress.step} (epoch {trainer.progress.epoch})")


def changed_keys(before: dict, now: dict) -> list[str]:
    """Return the keys that steer training and differ between two configurations."""
    steering = ("INPUT", "DATASET", "MODEL", "LOSS", "OPTIMIZATION", "RUNTIME", "MISC")
    return [
        f"{section}.{name}"
        for section in steering
        for name, value in now[section].items()
        if before.get(section, {}).get(name) != value and name != "NUM_WORKERS"
    ]


def read_vocabulary(checkpoint: str | Path) -> Vocabulary:
    """Return the vocabulary that a checkpoint's weights belong to."""
    path = resolve_checkpoint(checkpoint) / VOCABULARY_FILE
    if not path.is_file():
        raise UserError(f"checkpoint {path.parent} lacks {path.name}; use another checkpoint")
    return Vocabulary.load(path)


def checkpoint_folder(cfg: CfgNode) -> Path:
    """Return the checkpoint that `cfg` names: EVAL.CHECKPOINT_DIR, else the run's `best/`."""
    return Path(cfg.EVAL.CHECKPOINT_DIR or run_folder(cfg).best)


def load_trained(cfg: CfgNode) -> tuple[paddle.nn.Layer, Vocabulary, dict, Path]:
    """Return the trained model that `cfg` names, its vocabulary, its state and its folder."""
    folder = checkpoint_folder(cfg)
    vocabulary = read_vocabulary(folder)
    model = build_model(cfg, len(vocabulary))
    state = load_model(folder, model, cfg.MODEL.NAME)
    model.eval()
    return model, vocabulary, state, resolve_checkpoint(folder)


def split_name(cfg: CfgNode, split: str = "") -> str:
    """Return the name that the data set gives to `split` ("train", "dev" or "test"; default: EVAL.SPLIT)."""
    names = {"train": cfg.DATASET.TRAIN, "dev": cfg.DATASET.DEV, "test": cfg.DATASET.TEST}
    return names[split or cfg.EVAL.SPLIT]


def evaluate_split(cfg: CfgNode, model: paddle.nn.Layer, dataset: RetrievalDataset) -> Result:
    """Measure `model` on EVAL.SPLIT with the protocol of EVAL."""
    return evaluate(
        model,
        dataset,
        split_name(cfg),
        cfg.EVAL.FOLDS,
        cfg.EVAL.TIE_RULE,
        cfg.EVAL.BATCH_SIZE,
        cfg.EVAL.BLOCK_SIZE,
    )


def measure_swapped(
    cfg: CfgNode, model: paddle.nn.Layer, vocabulary: Vocabulary, dataset: RetrievalDataset
) -> dict[str, dict[str, float]]:
    """Return the accuracies on the split's swapped captions under `swapped`, or nothing where it has none."""
    pairs = swapped_pairs(cfg, dataset)
    return {"swapped": swapped_accuracy(model, vocabulary, dataset, pairs)} if pairs else {}


def swapped_pairs(cfg: CfgNode, dataset: RetrievalDataset) -> Sequence[Pair]:
    """Return the split's swapped captions, none where it has no file of them."""
    folder = Path(cfg.DATASET.DATA_DIR)
    return load_swapped(folder, dataset.name) if (folder / f"{dataset.name}_swapped.jsonl").is_file() else []


def _describe(
    cfg: CfgNode,
    training: RetrievalDataset,
    dev: RetrievalDataset,
    vocabulary: Vocabulary,
    model: paddle.nn.Layer,
) -> str:
    parameters = sum(parameter.size for parameter in model.parameters())
    return (
        f"data: {cfg.DATASET.NAME or cfg.DATASET.DATA_DIR}; {training.describe()}; {dev.describe()}\n"
        f"model: {cfg.MODEL.NAME}, {parameters / 1e6:.2f} million parameters, {len(vocabulary)} words; "
        f"loss: {cfg.LOSS.NAME}"
    )
