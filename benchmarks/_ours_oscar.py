"""Our side of Oscar's races: `python _ours_oscar.py TASK oscar FOLDER` answers as `_ours.py` does."""

from _report import ROOT

from engine.runtime import prepare_runtime, set_environment

set_environment()  # as the tools do, before NumPy is imported

from _oscar_corpus import cross_pairs, open_corpus
from _race import OURS, SETTINGS, WEIGHTS, measure_steps, measure_turns
from prepare_pairs import REGIONS, TOKENS

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.load import load_config
from datasets.pairs import ListedPairs, Pairs

SETTING = SETTINGS["oscar"]


def main() -> None:
    task, _, folder, *named = sys.argv[1:]
    precision = named[0] if named else "float32"
    keys = {
        "INPUT.MAX_SEQ_LEN": TOKENS,
        "INPUT.MAX_REGION": REGIONS,
        "INPUT.VOCAB_FILE": f"{folder}/vocab.txt",
        "DATASET.DATA_DIR": folder,
        "DATASET.FEAT_FILE": "features.tsv",
        "DATASET.CAPTION_FILE": "captions.json",
        "OPTIMIZATION.BATCH_SIZE": SETTING.batch,
        "OUTPUT.CHECKPOINT_DIR": folder,
        "PRETRAINED.DIR": "",
        "RUNTIME.AMP": "bfloat16" if precision == "bfloat16" else "off",
    }
    cfg = load_config(
        ROOT / "configs" / "f30k" / "oscar.yaml", [f"{key}={value}" for key, value in keys.items()]
    )
    prepare_runtime("cpu", precision=precision)
    {"train": train, "score": score}[task](cfg, Path(folder))


def train(cfg: CfgNode, folder: Path) -> None:
    """Train with the toolkit's own loop, which waits for its next turn when it asks for a batch."""
    from engine.tasks.loading import run_folder
    from engine.tasks.build_trainer import build_trainer
    from engine.runs.run_log import RunLog

    run = run_folder(cfg)
    trainer, _ = build_trainer(cfg, run, RunLog(run.log_file, None, enabled=False), resume_from=None)
    batches_of, dataset = trainer.batches_of, open_corpus(folder)
    own = Pairs(dataset.caption_image, np.arange(dataset.num_captions))
    mean_length = 2 * float(dataset.pair_lengths(own).mean())  # of a positive and a negative pair

    def lengths_of(batch: dict[str, np.ndarray]) -> np.ndarray:
        return batch["text_len"] + batch["num_regions"][batch["image_row"]]

    def in_turns(epoch: int, start: int) -> tuple[int, Iterable[dict]]:
        count, batches = batches_of(epoch, start)
        return count, measure_steps(batches, SETTING, lengths_of, mean_length)

    trainer.batches_of = in_turns
    trainer.fit()


def score(cfg: CfgNode, folder: Path) -> None:
    """Score pairs as an evaluation does, and in the same order."""
    from engine.evaluation.pair_scoring import score_pairs
    from models.build import build_model

    dataset = open_corpus(folder)
    model = build_model(cfg, len(dataset.word_piece))
    np.savez(folder / WEIGHTS, **{name: weight.numpy() for name, weight in model.named_parameters()})
    pairs = cross_pairs(dataset)
    lengths = dataset.image_lengths, dataset.caption_lengths
    ordered = ListedPairs(pairs, *lengths, block_pairs=len(pairs)).block(0)

    def score_all() -> np.ndarray:
        scores = np.empty((dataset.num_images, dataset.num_captions), np.float32)
        scores[ordered.images, ordered.captions] = score_pairs(model, dataset, ordered, cfg.EVAL.BATCH_TOKENS)
        return scores[pairs.images, pairs.captions]

    measure_turns(score_all, folder / OURS)


if __name__ == "__main__":
    main()
