"""Measure the floor of a data set: what a bag of words and a ridge regression reach, without a network.

    python tools/measure_floor.py --cfg_file configs/rsicd/vsepp.yaml DATASET.DATA_DIR=path/to/rsicd_precomp

A linear map from the words of a caption to the standardised features of its image is fitted to
DATASET.TRAIN in closed form, and captions and images are compared by the cosine. The penalty is the one of
the best mean recall on DATASET.DEV. The numbers of EVAL.SPLIT are those of tools/eval_retrieval.py, with
intervals, and go into result.json: a network that is not above them has learned nothing from the order of
words. Vocabulary and captions are those that the task file would train on.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import _init_paths  # noqa: F401
from _command import run, start_runtime

import numpy as np

from config.errors import UserError
from config.families import FAMILIES
from config.load import add_config_arguments, config_as_dict, config_from_arguments
from models.bag_of_words import BagOfWords, RidgeRegression, bags_of_words

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.retrieval_dataset import RetrievalDataset
    from engine.evaluation.dual import Encoded

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TOGETHER = 4096  # pairs of a block


def main() -> None:
    """Parse the command line, fit, choose the penalty on dev, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for result.json (default: <run>/floor_<split>)"
    )
    arguments = parser.parse_args()
    cfg = config_from_arguments(arguments)
    check(cfg)
    print(start_runtime(cfg).describe(), flush=True)
    from datasets.build.dual import build_dataset, build_vocabulary
    from engine.certificates.stored import RANKS_FILE, write_ranks
    from engine.evaluation.dual import rank_encoded
    from engine.evaluation.protocol import check_protocol
    from engine.evaluation.result import format_table, versions, write_result_json
    from engine.tasks.certificates import certificate_entry, certified, names_of
    from engine.tasks.loading import run_folder, split_name

    words = build_vocabulary(cfg)
    train = build_dataset(cfg, cfg.DATASET.TRAIN, words, training=True)
    dev = build_dataset(cfg, cfg.DATASET.DEV, words, training=False)
    split = split_name(cfg)
    measured = build_dataset(cfg, split, words, training=False)
    check_protocol(measured, split, cfg.EVAL.FOLDS)
    moments = train.feature_moments()
    regression = add_pairs(train, moments)

    def score(penalty: float) -> float:
        encoded = encode(dev, regression.fit(penalty), moments)
        result = rank_encoded(encoded, dev, cfg.DATASET.DEV, tie_rule=cfg.EVAL.TIE_RULE)
        print(f"penalty {penalty:g}: mean recall {result.metrics['mean_recall']:.2f} on dev", flush=True)
        return result.metrics["mean_recall"]

    penalty = max(PENALTIES, key=score)
    encoded = encode(measured, regression.fit(penalty), moments)
    result = rank_encoded(encoded, measured, split, cfg.EVAL.FOLDS, cfg.EVAL.TIE_RULE, cfg.EVAL.BLOCK_SIZE)
    certificate = certified(cfg, result.sides)
    checkpoint = {"model": "bag of words", "penalty": penalty, "pairs": regression.count}
    folder = arguments.out or run_folder(cfg).path / f"floor_{cfg.EVAL.SPLIT}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; name another folder with --out") from error
    path = folder / "result.json"
    entry = certificate_entry(certificate)
    write_result_json(path, result, checkpoint, config_as_dict(cfg), versions(), entry)
    write_ranks(folder / RANKS_FILE, result.sides, cfg.EVAL.TIE_RULE, names_of(measured))
    fitted = f"bag of words, {len(words)} words, {regression.count} pairs, penalty {penalty:g}"
    lines = certificate.lines() if certificate else []
    print("\n".join([fitted, format_table(result), *lines, f"written: {path}"]))


def check(cfg: "CfgNode") -> None:
    """Raise UserError unless the task file is of a dual encoder that reads one vector an image."""
    family = FAMILIES[cfg.MODEL.NAME]
    if family.kind != "dual" or family.sees_regions or cfg.MODEL.CNN:
        got = f"MODEL.CNN={cfg.MODEL.CNN}" if cfg.MODEL.CNN else f"MODEL.NAME={cfg.MODEL.NAME}"
        raise UserError(
            f"{got}: the floor is one of features and captions; name a task file of vse or vsepp, which also "
            "reads the mean of an image's regions, and for pictures make features with "
            "tools/extract_features.py first"
        )


def add_pairs(train: "RetrievalDataset", moments: tuple[np.ndarray, np.ndarray]) -> RidgeRegression:
    """Return the sums over all pairs of `train`."""
    regression = RidgeRegression(len(train.vocabulary), len(moments[0]))
    for start in range(0, train.num_captions, TOGETHER):
        captions = np.arange(start, min(start + TOGETHER, train.num_captions))
        features = standardised(train, train.caption_image[captions], moments)
        regression.add(bags_of(train, captions), features)
    return regression


def encode(
    dataset: "RetrievalDataset", model: BagOfWords, moments: tuple[np.ndarray, np.ndarray]
) -> "Encoded":
    """Return the normalised features of all images, and those that each distinct sentence lets expect."""
    from engine.evaluation.dual import Encoded
    from engine.ranking.similarity import similarity_of

    _, first, sentence = np.unique(dataset.sentence_ids, return_index=True, return_inverse=True)
    blocks = [first[start : start + TOGETHER] for start in range(0, len(first), TOGETHER)]
    text = np.concatenate([model.predict(bags_of(dataset, block)) for block in blocks])
    images = [
        standardised(dataset, np.arange(start, min(start + TOGETHER, dataset.num_images)), moments)
        for start in range(0, dataset.num_images, TOGETHER)
    ]
    image = np.concatenate(images)
    return Encoded(unit(image), unit(text), sentence.reshape(-1), "cosine", similarity_of("cosine"))


def bags_of(dataset: "RetrievalDataset", captions: np.ndarray) -> np.ndarray:
    """Return the bags of words [N,V] of captions by index [N]."""
    batch = dataset.text_batch(captions)
    return bags_of_words(batch["token_ids"], batch["text_len"], len(dataset.vocabulary))


def standardised(
    dataset: "RetrievalDataset", images: np.ndarray, moments: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the features [N,F] of images by index [N], less the mean and over the deviation of training."""
    mean, deviation = moments
    return (dataset.image_batch(images)["features"] - mean) / np.where(deviation > 0, deviation, 1)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return `rows` [N,D] as float32 of length 1; a row of zeros stays one."""
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


if __name__ == "__main__":
    run(main)
