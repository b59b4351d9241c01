"""Finds what a configuration names: a run, a checkpoint, a split, and the trained model."""

from pathlib import Path

from yacs.config import CfgNode

from config.families import FAMILIES
from datasets.build.words import load_words
from engine.runs.checkpoint import check_family, checkpoint_hash, load_model, resolve_checkpoint
from engine.runs.run_folder import RunFolder
from engine.tasks.task import Trained
from models.build import build_model


def run_folder(cfg: CfgNode) -> RunFolder:
    """Return the folder of the run that `cfg` describes."""
    return RunFolder(Path(cfg.OUTPUT.CHECKPOINT_DIR) / cfg.OUTPUT.SAVE_NAME)


def checkpoint_folder(cfg: CfgNode) -> Path:
    """Return the folder of the checkpoint: EVAL.CHECKPOINT_DIR, or the run's `best/` without it."""
    return Path(cfg.EVAL.CHECKPOINT_DIR or run_folder(cfg).best)


def split_name(cfg: CfgNode, split: str = "") -> str:
    """Return the data set's name for `split`: "train", "dev" or "test" (default: EVAL.SPLIT)."""
    names = {"train": cfg.DATASET.TRAIN, "dev": cfg.DATASET.DEV, "test": cfg.DATASET.TEST}
    return names[split or cfg.EVAL.SPLIT]


def load_trained(cfg: CfgNode) -> Trained:
    """Return the trained model that `cfg` names.

    Raises UserError for a checkpoint that is missing, damaged, of another family or of another shape.
    """
    folder = checkpoint_folder(cfg)
    check_family(folder, cfg.MODEL.NAME)
    path = resolve_checkpoint(folder)
    words = load_words(cfg, path) if FAMILIES[cfg.MODEL.NAME].text else None
    model = build_model(cfg, len(words or ()))
    state = load_model(folder, model, cfg.MODEL.NAME)
    model.eval()
    checkpoint = {
        "folder": str(path),
        "sha256": checkpoint_hash(state),
        "model": state["model"],
        "step": state["progress"]["step"],
    }
    return Trained(model, words, checkpoint)
