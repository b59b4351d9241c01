"""Build the vocabulary, data set and sampler of a dual encoder from the configuration."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.values import data_path
from datasets.build.image import build_picture_store
from datasets.build.words import Say, Words, build_words, no_line
from datasets.captions.load import CaptionSplit, caption_path, load_captions, read_captions
from datasets.captions.relevance_files import by_sentence, read_relevance
from datasets.captions.vinvl import load_vinvl_captions, read_vinvl_captions
from datasets.features.formats import open_features
from datasets.features.npy import NpyFeatures
from datasets.features.store import FeatureStore
from datasets.pairs import folds_of_images
from datasets.retrieval_dataset import RetrievalDataset
from datasets.samplers.batches import BatchSampler


def build_vocabulary(cfg: CfgNode, say: Say = no_line) -> Words:
    """Load INPUT.VOCAB_FILE, or build a vocabulary from INPUT.VOCAB_SPLITS (empty: the training split).

    `say` is told if letters become the tokens, because the captions run their words together. Raises
    `UserError` for a vocabulary without words, or a file made with another tokenizer.
    """
    splits = list(cfg.INPUT.VOCAB_SPLITS) or [cfg.DATASET.TRAIN]
    return build_words(
        cfg,
        lambda: chain.from_iterable(_read_captions(cfg, split) for split in splits),
        str(_caption_path(cfg, splits[0])),
        say,
    )


def build_dataset(cfg: CfgNode, split: str, vocabulary: Words, training: bool) -> RetrievalDataset:
    """Open the data set of the split named `split` (such as DATASET.DEV).

    Long or repeated captions are left out only with `training`. Raises `UserError` for data that is missing
    or does not fit together.
    """
    sees_pictures = bool(cfg.MODEL.CNN)
    features = build_picture_store(cfg, split, training) if sees_pictures else build_features(cfg, split)
    sees_regions = FAMILIES[cfg.MODEL.NAME].sees_regions
    if sees_regions and features.max_regions is None:
        raise UserError(
            f"{features.path}: one vector an image, but MODEL.NAME={cfg.MODEL.NAME} needs regions "
            "[images, regions, features]: extract regions, or train MODEL.NAME=vsepp"
        )
    captions = load_split(cfg, split, features, training)
    long_captions = cfg.INPUT.LONG_CAPTIONS if training else "cut"
    distinct = training and cfg.DATASET.DISTINCT_CAPTIONS
    return RetrievalDataset(
        features,
        captions,
        vocabulary,
        cfg.INPUT.MAX_SEQ_LEN,
        long_captions,
        distinct_captions=distinct,
        pool_regions=not (sees_regions or sees_pictures),
    )


def build_features(cfg: CfgNode, split: str) -> FeatureStore:
    """Open the features of a split: DATASET.FEAT_FILE, or `SPLIT_ims.npy` if that key is empty.

    The rows of `SPLIT_ims.npy` are tied to captions by their order and `SPLIT_ids.txt`, the rows of other
    files by the ids in them. Raises `UserError` for a file that is missing or broken.
    """
    path, named = feature_path(cfg, split)
    return (open_features if named else NpyFeatures)(path, cfg.INPUT.IMG_FEATURE_DIM)


def feature_path(cfg: CfgNode, split: str) -> tuple[Path, bool]:
    """Return the file of a split's features, and whether the ids in that file name the images."""
    data_dir = data_folder(cfg)
    usual = data_dir / f"{split}_ims.npy"
    path = data_path(data_dir, cfg.DATASET.FEAT_FILE, split) if cfg.DATASET.FEAT_FILE else usual
    if path != usual and not path.is_file():
        raise UserError(
            f"{path}: no such file, expected the features of {split} there or in the working folder: check "
            "DATASET.FEAT_FILE"
        )
    return path, path != usual or cfg.DATASET.FORMAT == "vinvl"


def load_split(cfg: CfgNode, split: str, features: FeatureStore, training: bool) -> CaptionSplit:
    """Read a split's images and captions.

    In the format vinvl, keys of INPUT and EVAL limit them, some keys in training and others in evaluation.
    Raises `UserError` for captions and images that do not fit each other.
    """
    return _with_relevance(cfg, _read_split(cfg, split, features, training), training)


def _with_relevance(cfg: CfgNode, split: CaptionSplit, training: bool) -> CaptionSplit:
    """Return `split` with the right pairs that DATASET.RELEVANCE names."""
    rule = cfg.DATASET.RELEVANCE
    if rule == "id":
        return split
    if rule == "sentence":
        folds = None if training else folds_of_images(len(split.image_ids), cfg.EVAL.FOLDS)
        return by_sentence(split, folds)
    path = data_path(data_folder(cfg), rule, split.name)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, expected the right pairs of {split.name}: check DATASET.RELEVANCE, which "
            "is id, sentence, or a file of DATASET.DATA_DIR"
        )
    return replace(split, relevance=read_relevance(path, split, cfg.DATASET.RELEVANCE_GRADE))


def _read_split(cfg: CfgNode, split: str, features: FeatureStore, training: bool) -> CaptionSplit:
    dataset = cfg.DATASET
    if dataset.FORMAT == "vinvl":
        keys = "" if training else cfg.EVAL.EVAL_IMG_KEYS_FILE
        return load_vinvl_captions(
            _caption_path(cfg, split),
            features,
            data_path(data_folder(cfg), keys, split) if keys else None,
            _captions_per_image(cfg, training),
            split,
        )
    return load_captions(
        dataset.FORMAT,
        data_folder(cfg),
        split,
        dataset.CAPTION_FILE,
        features,
        dataset.CAPTIONS_PER_IMAGE,
        _with_restval(cfg, split),
    )


def _captions_per_image(cfg: CfgNode, training: bool) -> int:
    if training:
        return cfg.INPUT.NUM_CAPTIONS_PER_IMAGE_TRN
    # With an index, the key limits an image's candidates, and any caption may be one.
    return 0 if cfg.EVAL.EVAL_CAPTION_INDEX_FILE else cfg.INPUT.NUM_CAPTIONS_PER_IMAGE_DEV


def _read_captions(cfg: CfgNode, split: str) -> list[str]:
    if cfg.DATASET.FORMAT == "vinvl":
        return read_vinvl_captions(_caption_path(cfg, split))
    return read_captions(
        cfg.DATASET.FORMAT, data_folder(cfg), split, cfg.DATASET.CAPTION_FILE, _with_restval(cfg, split)
    )


def _caption_path(cfg: CfgNode, split: str) -> Path:
    usual = "{split}_captions.json" if cfg.DATASET.FORMAT == "vinvl" else ""
    return caption_path(cfg.DATASET.FORMAT, data_folder(cfg), split, cfg.DATASET.CAPTION_FILE or usual)


def build_sampler(
    cfg: CfgNode, dataset: RetrievalDataset, rank: int = 0, world_size: int = 1
) -> BatchSampler:
    """Return the sampler of the training batches of process `rank` of `world_size`.

    Raises `UserError` if there are too few captions for a batch.
    """
    options = cfg.OPTIMIZATION
    sampler = BatchSampler(
        dataset.lengths,
        options.BATCH_SIZE,
        options.BATCHING,
        cfg.MISC.SEED,
        rank,
        world_size,
        group_of=dataset.caption_image // options.IMAGES_TOGETHER,
        together=options.CAPTIONS_TOGETHER * options.IMAGES_TOGETHER,
    )
    if sampler.steps_per_epoch() == 0:
        same = " of one length" if options.BATCHING == "same_length" else ""
        raise UserError(
            f"{dataset.features.path.parent}: {dataset.num_captions} captions of {dataset.name} for "
            f"{world_size} processes, expected at least {max(2, world_size)}{same}: add captions"
        )
    return sampler


def _with_restval(cfg: CfgNode, split: str) -> bool:
    return cfg.DATASET.USE_RESTVAL and split == cfg.DATASET.TRAIN


def data_folder(cfg: CfgNode) -> Path:
    """Return DATASET.DATA_DIR; raise `UserError` if there is no such folder."""
    data_dir = Path(cfg.DATASET.DATA_DIR)
    if not cfg.DATASET.DATA_DIR or not data_dir.is_dir():
        what = f"{data_dir}: no such folder" if cfg.DATASET.DATA_DIR else "DATASET.DATA_DIR is empty"
        if cfg.DATASET.NAME == "scenes":
            raise UserError(
                f"{what}: run python tools/make_scenes.py --out {cfg.DATASET.DATA_DIR or 'data/scenes'}"
            )
        raise UserError(f"{what}, expected the data set: set DATASET.DATA_DIR to its folder (docs/data.md)")
    return data_dir
