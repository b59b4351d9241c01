"""Opens the splits of a data set for an audit: what each picture looks like, and what each sentence says."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from yacs.config import CfgNode

from config.errors import UserError
from config.families import FAMILIES
from config.progress import ShowProgress, no_progress
from datasets.build.cross import open_pair_split
from datasets.build.dual import build_features, load_split
from datasets.build.image import build_image_dataset, build_picture_store, picture_files
from datasets.features.store import FeatureStore
from datasets.pictures.picture import UnreadableError
from datasets.prefetch import prefetched
from datasets.preparation.photos import hash_of_picture

CLOSE = 0.95
"""The cosine of centred features from which images count as alike (docs/inspection.md has what it finds)."""
_TOGETHER = 16  # pictures that a thread looks at in one piece

ReadPicture = Callable[[str], bytes | None]


@dataclass(frozen=True)
class AuditedSplit:
    """A split: its images by name, what identifies and what describes each, and its captions.

    `content` [I] are equal for equal pictures, or equal features. `looks` [I,D] is a perceptual hash (bool)
    or a pooled feature vector (float32). `captions` are empty where pictures have classes instead, and
    `caption_image` [T] is the image of each.
    """

    name: str
    image_ids: list[str]
    content: list[bytes]
    looks: np.ndarray
    captions: list[str]
    caption_image: np.ndarray

    @property
    def by_pictures(self) -> bool:
        """Tell whether pictures were looked at, not features."""
        return self.looks.dtype == bool


def open_audited(
    cfg: CfgNode,
    read_of: Callable[[str], ReadPicture] | None = None,
    progress: ShowProgress = no_progress,
) -> list[AuditedSplit]:
    """Return the splits DATASET.TRAIN, DEV and TEST, those of one name once.

    `read_of` takes a split and returns what reads the file of an image, or None if there is no such file.
    Without it, and where a file is missing or no picture, features are compared. Raises UserError
    for data that is missing or does not fit together.
    """
    names = list(dict.fromkeys((cfg.DATASET.TRAIN, cfg.DATASET.DEV, cfg.DATASET.TEST)))
    opened = [_Opened.of(cfg, name) for name in names]
    found, missing = [], None
    for split in opened:
        if missing:
            break
        read = split.read or (read_of(split.name) if read_of else None)
        seen = _look(split, read, cfg.MISC.NUM_WORKERS, progress)
        missing = missing or (seen if isinstance(seen, str) else None)
        found.append(seen)
    if missing:
        if any(split.features is None for split in opened):
            raise UserError(f"the picture {missing} cannot be read: mend or remove it")
        found = [_features(split, progress) for split in opened]
    return [
        AuditedSplit(split.name, split.image_ids, *seen, split.captions, split.caption_image)
        for split, seen in zip(opened, found, strict=True)
    ]


@dataclass(frozen=True)
class _Opened:
    """A split before its pictures are looked at; `features` is None where there are pictures alone."""

    name: str
    image_ids: list[str]
    captions: list[str]
    caption_image: np.ndarray
    features: FeatureStore | None
    rows: np.ndarray
    read: ReadPicture | None

    @classmethod
    def of(cls, cfg: CfgNode, name: str) -> "_Opened":
        """Open a split as evaluation does."""
        kind = FAMILIES[cfg.MODEL.NAME].kind
        if kind == "image":
            dataset = build_image_dataset(cfg, name, training=False)
            files, none = dataset.loader.files, np.empty(0, np.int64)
            return cls(name, list(dataset.image_ids), [], none, None, none, files.read)
        if kind == "cross":
            opened = open_pair_split(cfg, name, training=False)
            features, captions = opened.features, opened.captions
        else:
            features = build_picture_store(cfg, name, False) if cfg.MODEL.CNN else build_features(cfg, name)
            captions = load_split(cfg, name, features, training=False)
        texts, owners, rows = captions.captions, captions.caption_image, captions.image_rows
        if not cfg.MODEL.CNN:
            return cls(name, captions.image_ids, texts, owners, features, rows, None)
        files, paths = picture_files(cfg, name), [features.image_ids[row] for row in rows]
        path_of = dict(zip(captions.image_ids, paths, strict=True))
        return cls(
            name, captions.image_ids, texts, owners, None, rows, lambda image: files.read(path_of[image])
        )


def _look(
    split: _Opened, read: ReadPicture | None, workers: int, progress: ShowProgress
) -> tuple[list[bytes], np.ndarray] | str:
    """Return checksum and hash of every picture, or the name of the first that has none."""
    if read is None:
        return split.image_ids[0]

    def look_at(names: list[str]) -> list[tuple[bytes, np.ndarray] | str]:
        found: list[tuple[bytes, np.ndarray] | str] = []
        for name in names:
            try:
                data = read(name)
                found.append(
                    (hashlib.blake2b(data, digest_size=20).digest(), hash_of_picture(data)) if data else name
                )
            except UnreadableError:
                found.append(name)
        return found

    batches = [split.image_ids[i : i + _TOGETHER] for i in range(0, len(split.image_ids), _TOGETHER)]
    content, hashes = [], []
    for batch in prefetched(look_at, batches, workers):
        for each in batch:
            if isinstance(each, str):
                return each
            content.append(each[0])
            hashes.append(each[1])
        progress(f"looking at {split.name}", len(content), len(split.image_ids))
    return content, np.stack(hashes)


def _features(split: _Opened, progress: ShowProgress) -> tuple[list[bytes], np.ndarray]:
    """Return a checksum of every image's features, and their mean over its regions, float32 [I,F]."""
    content, pooled = [], []
    for start in range(0, len(split.rows), 256):
        rows = split.rows[start : start + 256]
        ends = np.cumsum(split.features.counts(rows))
        vectors = split.features.vectors(rows)
        content += [
            hashlib.blake2b(np.ascontiguousarray(each), digest_size=20).digest()
            for each in np.split(vectors, ends[:-1])
        ]
        pooled.append(split.features.gather(rows, pool=True))
        progress(f"reading {split.name}", len(content), len(split.rows))
    return content, np.concatenate(pooled)


def said(sentence: str) -> str:
    """Return the words of a sentence without case, punctuation and spaces around them.

    Sentences of equal words are near-equal.
    """
    return " ".join(re.findall(r"\w+", sentence.casefold()))
