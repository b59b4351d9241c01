"""Build what a cross encoder reads from the configuration: word pieces, pairs and their sampler."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.values import data_path
from datasets.build.dual import data_folder, feature_path, load_split
from datasets.build.words import Say, build_words, no_line
from datasets.captions.load import CaptionSplit
from datasets.captions.tags import tags_of_classes, tags_of_features, tags_of_predictions
from datasets.captions.vinvl import read_caption_index
from datasets.features.box_terms import open_regions, widened
from datasets.features.npy import NpyFeatures
from datasets.features.store import FeatureStore
from datasets.pair_dataset import PairDataset
from datasets.pairs import Pairs
from datasets.samplers.pairs import HardNegatives, PairSampler
from datasets.words.wordpiece import WordPiece


@dataclass(frozen=True)
class PairSplit:
    """A split as its files hold it, before words become ids.

    `has_tags` is false where the model reads no tags. `tag_file` is None where the tags come from the
    features.
    """

    features: FeatureStore
    captions: CaptionSplit
    has_tags: bool
    tag_file: Path | None

    def tags(self) -> Iterator[list[str]] | None:
        """Return an iterator over the tags of each image; None if the model reads no tags.

        The iterator raises `UserError` for an image without tags.
        """
        if not self.has_tags:
            return None
        if self.tag_file is None:
            return tags_of_features(self.features, self.captions)
        return TAG_READERS[self.tag_file.suffix](self.tag_file, self.captions)


TAG_READERS = {".tsv": tags_of_predictions, ".txt": tags_of_classes}


def open_pair_split(cfg: CfgNode, split: str, training: bool, num_images: int = 0) -> PairSplit:
    """Open the split named `split`, or its first `num_images` images (0: all).

    Raises `UserError` for data that is missing or does not fit together.
    """
    path, named = feature_path(cfg, split)
    dim = cfg.INPUT.IMG_FEATURE_DIM
    features = open_regions(path, dim) if named else widened(NpyFeatures(path), dim)
    captions = load_split(cfg, split, features, training)
    if num_images:
        captions = _first_images(captions, num_images)
    return PairSplit(features, captions, cfg.INPUT.ADD_OD_LABEL, _tag_file(cfg, split))


def build_word_piece(cfg: CfgNode, training: PairSplit, say: Say = no_line) -> WordPiece:
    """Load INPUT.VOCAB_FILE, or build a vocabulary from the training split's captions and tags.

    `say` is told if letters become the tokens, because the captions run their words together.
    """
    captions = training.captions.captions
    return build_words(
        cfg, lambda: chain(captions, chain.from_iterable(training.tags() or ())), training.captions.name, say
    )


def pair_dataset_of(cfg: CfgNode, split: PairSplit, word_piece: WordPiece) -> PairDataset:
    """Return the data set of an open split."""
    return PairDataset(
        split.features,
        split.captions,
        word_piece,
        split.tags(),
        cfg.INPUT.MAX_SEQ_LEN,
        cfg.INPUT.MAX_REGION,
    )


def build_candidates(cfg: CfgNode, split: PairSplit) -> Pairs | None:
    """Return the pairs that EVAL.EVAL_CAPTION_INDEX_FILE lists for a split; None without that file."""
    name = cfg.EVAL.EVAL_CAPTION_INDEX_FILE
    if not name:
        return None
    path = data_path(data_folder(cfg), name, split.captions.name)
    return read_caption_index(path, split.captions, cfg.INPUT.NUM_CAPTIONS_PER_IMAGE_DEV)


def build_pair_sampler(
    cfg: CfgNode, dataset: PairDataset, hard: HardNegatives | None, rank: int = 0, world_size: int = 1
) -> PairSampler:
    """Return the sampler of the training batches of process `rank` of `world_size`.

    Raises `UserError` if there are too few captions for a batch.
    """
    sampler = PairSampler(
        dataset,
        cfg.OPTIMIZATION.BATCH_SIZE,
        cfg.MISC.SEED,
        rank,
        world_size,
        bucket=cfg.OPTIMIZATION.BATCHING == "bucket",
        hard=hard,
        hard_share=cfg.NEGATIVES.SHARE,
        hard_from=cfg.NEGATIVES.RANDOM_EPOCHS,
        count=cfg.NEGATIVES.COUNT,
    )
    if sampler.steps_per_epoch() == 0:
        raise UserError(
            f"{dataset.features.path.parent}: {dataset.num_captions} captions of {dataset.name} for "
            f"{world_size} processes, expected at least {max(2, world_size)}: add captions"
        )
    return sampler


def _first_images(split: CaptionSplit, count: int) -> CaptionSplit:
    kept = np.flatnonzero(split.caption_image < count)
    return replace(
        split,
        image_ids=split.image_ids[:count],
        image_rows=split.image_rows[:count],
        captions=[split.captions[index] for index in kept],
        caption_image=split.caption_image[kept],
        caption_ids=[split.caption_ids[index] for index in kept] if split.caption_ids else None,
        relevance=split.relevance and split.relevance.with_captions(kept).with_images(count),
    )


def _tag_file(cfg: CfgNode, split: str) -> Path | None:
    if not cfg.DATASET.TAG_FILE or not cfg.INPUT.ADD_OD_LABEL:
        return None
    path = data_path(data_folder(cfg), cfg.DATASET.TAG_FILE, split)
    if path.suffix not in TAG_READERS:
        raise UserError(
            f"{path}: expected a detector's predictions (.tsv) or a class an image (.txt): check "
            "DATASET.TAG_FILE"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the tags of {split}: check DATASET.TAG_FILE")
    return path
