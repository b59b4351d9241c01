"""Find what a configuration names: a run, its trained model and how that is measured."""

from collections.abc import Sequence
from pathlib import Path

import paddle
from yacs.config import CfgNode

from config.errors import UserError
from config.families import CROSS_ENCODERS
from datasets.captions.swapped import load_swapped
from datasets.retrieval_dataset import RetrievalDataset
from datasets.words.vocabulary import Vocabulary
from datasets.words.wordpiece import WordPiece
from engine.evaluation.dual import evaluate
from engine.evaluation.result import Result
from engine.evaluation.swapped import Pair, swapped_accuracy
from engine.runs.checkpoint import check_family, load_model, resolve_checkpoint
from engine.runs.run_folder import RunFolder
from models.build import build_model


def run_folder(cfg: CfgNode) -> RunFolder:
    """Return the folder of the run that `cfg` describes."""
    return RunFolder(Path(cfg.OUTPUT.CHECKPOINT_DIR) / cfg.OUTPUT.SAVE_NAME)


def read_vocabulary(checkpoint: str | Path) -> Vocabulary:
    """Return the vocabulary that a checkpoint's weights belong to."""
    return Vocabulary.load(_file_of(checkpoint, Vocabulary.file_name))


def read_word_piece(cfg: CfgNode, checkpoint: str | Path) -> WordPiece:
    """Return the word pieces that a cross encoder's weights belong to."""
    return WordPiece.load(_file_of(checkpoint, WordPiece.file_name), cfg.INPUT.DO_LOWER_CASE)


def _file_of(checkpoint: str | Path, name: str) -> Path:
    path = resolve_checkpoint(checkpoint) / name
    if not path.is_file():
        raise UserError(f"checkpoint {path.parent} lacks {name}; use another checkpoint")
    return path


def checkpoint_folder(cfg: CfgNode) -> Path:
    """Return the checkpoint that `cfg` names: EVAL.CHECKPOINT_DIR, else the run's `best/`."""
    return Path(cfg.EVAL.CHECKPOINT_DIR or run_folder(cfg).best)


def load_trained(cfg: CfgNode) -> tuple[paddle.nn.Layer, Vocabulary | WordPiece, dict, Path]:
    """Return the trained model that `cfg` names, its vocabulary, its state and its folder."""
    folder = checkpoint_folder(cfg)
    check_family(folder, cfg.MODEL.NAME)
    is_cross = cfg.MODEL.NAME in CROSS_ENCODERS
    vocabulary = read_word_piece(cfg, folder) if is_cross else read_vocabulary(folder)
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
