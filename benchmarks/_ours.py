"""Our side of a race: `python _ours.py TASK MODEL FOLDER` takes a measurement for each line on its stdin.

A further argument is the precision of the layers: float32 (the default) or bfloat16.
"""

from _report import ROOT

from engine.runtime import prepare_runtime, set_environment

if __name__ == "__main__":
    set_environment()  # as the tools do, before NumPy is imported

from _race import OURS, SETTINGS, VOCABULARY, WEIGHTS, WORD_DIM, measure_steps, measure_turns

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.load import load_config


def main() -> None:
    task, model, folder, *named = sys.argv[1:]
    precision = named[0] if named else "float32"
    lowered = {"RUNTIME.AMP": "bfloat16"} if precision == "bfloat16" else {}
    cfg = our_config(model, Path(folder), lowered)
    prepare_runtime("cpu", precision=precision)
    {"train": train, "encode": encode}[task](cfg)


def our_config(model: str, folder: Path, changes: dict[str, object] | None = None) -> CfgNode:
    """Return the configuration of `model` for a race on the corpus in `folder`; `changes` override keys."""
    setting = SETTINGS[model]
    keys = {
        "MODEL.EMBED_DIM": setting.embed_dim,
        "MODEL.WORD_DIM": WORD_DIM,
        "INPUT.IMG_FEATURE_DIM": setting.features[-1],
        "INPUT.TOKENIZER": "whitespace",
        "INPUT.VOCAB_FILE": folder / VOCABULARY,
        "DATASET.DATA_DIR": folder,
        "DATASET.CAPTIONS_PER_IMAGE": setting.captions_per_image,
        "OPTIMIZATION.BATCH_SIZE": setting.batch,
        "OUTPUT.CHECKPOINT_DIR": folder,
        **(changes or {}),
    }
    overrides = [f"{key}={value}" for key, value in keys.items()]
    return load_config(ROOT / "configs" / "f30k" / f"{model}.yaml", overrides)


def train(cfg: CfgNode) -> None:
    """Train with the toolkit's own loop, which waits for its next turn when it asks for a batch."""
    from datasets.build.dual import build_dataset
    from engine.tasks.loading import run_folder
    from engine.tasks.build_trainer import build_trainer
    from engine.runs.run_log import RunLog

    folder = run_folder(cfg)
    trainer, vocabulary = build_trainer(
        cfg, folder, RunLog(folder.log_file, None, enabled=False), resume_from=None
    )
    batches_of, setting = trainer.batches_of, SETTINGS[cfg.MODEL.NAME]
    mean_length = build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=True).lengths.mean()

    def in_turns(epoch: int, start: int) -> tuple[int, Iterable[dict]]:
        count, batches = batches_of(epoch, start)
        return count, measure_steps(batches, setting, lambda batch: batch["text_len"], mean_length)

    trainer.batches_of = in_turns
    trainer.fit()


def encode(cfg: CfgNode) -> None:
    """Encode each image and each sentence once, as an evaluation does; with VSRN, encode images alone."""
    from datasets.build.dual import build_dataset, build_vocabulary
    from engine.evaluation.dual import encode_captions, encode_images
    from models.build import build_model

    vocabulary = build_vocabulary(cfg)
    dataset = build_dataset(cfg, cfg.DATASET.TRAIN, vocabulary, training=False)
    model = build_model(cfg, len(vocabulary))

    if cfg.MODEL.NAME == "vsrn":
        for block in model.image_encoder.blocks:  # with the initial 0, a block is the identity
            block.norm.weight.set_value(np.ones(cfg.MODEL.EMBED_DIM, np.float32))
    folder = Path(cfg.DATASET.DATA_DIR)
    np.savez(folder / WEIGHTS, **{name: weight.numpy() for name, weight in model.named_parameters()})

    def encode_split() -> np.ndarray:
        images = encode_images(model, dataset, cfg.EVAL.BATCH_SIZE)
        if cfg.MODEL.NAME == "vsrn":
            return images
        sentences, sentence_of_caption = encode_captions(model, dataset, cfg.EVAL.BATCH_SIZE)
        return sentences[sentence_of_caption]

    measure_turns(encode_split, folder / OURS)


if __name__ == "__main__":
    main()
