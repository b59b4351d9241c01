"""Extract further pictures exactly as the pictures of a feature file were extracted, by the file's record."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from config.default import Key
from config.errors import UserError
from config.files.networks import BACKBONE_KEYS, DETECTOR_KEYS, Backbone, Detector
from config.progress import ShowProgress, no_progress
from config.values import check_value
from datasets.pictures.files import PictureFiles
from datasets.pictures.loader import PictureLoader
from datasets.pictures.picture import Unreadables
from engine.extraction.build import (
    build_grid,
    build_pooled,
    build_regions,
    build_transform,
    choose_precision,
    normalization_of,
)
from engine.extraction.extractors import FeatureExtractor, batches_of, extract_batches
from engine.weights.published_cnn import locate_weights
from models.kernels.precision import BFLOAT16, FLOAT32, POSSIBLE

_BATCH = 32


def record_of(job: dict) -> dict:
    """Return what a feature file keeps of the job that extracted it: all but which pictures these were."""
    return {name: value for name, value in job.items() if name != "pictures"}


def record_of_backbone(backbone: Backbone, precision: str = FLOAT32) -> dict:
    """Return the record of an extraction of one vector for each picture by `backbone`."""
    options = [False, None, 0, 0, 0.0, _BATCH]
    return {
        "backbone": asdict(backbone),
        "detector": None,
        "options": options,
        **record_of_precision(precision),
    }


def record_of_precision(precision: str) -> dict:
    """Return what a record says of float32 or bfloat16: nothing of float32, as records did before."""
    return {} if precision == FLOAT32 else {"precision": precision}


def needs_paddle(record: dict) -> bool:
    """Tell whether an extraction by a record runs or reads its backbone with Paddle."""
    backbone = record.get("backbone")
    return isinstance(backbone, dict) and (backbone.get("kind") == "paddle" or bool(backbone.get("weights")))


@dataclass(frozen=True)
class _Recorded:
    backbone: Backbone
    detector: Detector | None
    ten_crop: bool
    grid: int | None
    fewest: int
    most: int
    least_score: float
    wanted: str

    @property
    def precision(self) -> str:
        """Float32, or bfloat16 where that was taken and is to be had here."""
        return choose_precision(self.wanted, "precision", self.backbone, bool(self.grid))

    @property
    def has_regions(self) -> bool:
        return bool(self.grid or self.detector)


def extract_as_recorded(
    record: dict,
    source: Path,
    files: PictureFiles,
    refuse: bool,
    threads: int,
    progress: ShowProgress = no_progress,
) -> tuple[list[str], list[np.ndarray], bool, dict[str, str]]:
    """Extract the features of all pictures of `files` as the `record` in the file `source` says.

    Where features were made in bfloat16 and this processor has none, they are made in float32.
    Returns the names of the readable pictures, their vectors (float32 [R,F] each), whether they are regions,
    and the unreadable pictures with the reasons. With `refuse`, an unreadable picture is an error. Raises
    `UserError` for a record of another version, and for a network that is missing or another one now.
    """
    recorded = _read(record, source)
    backbone = recorded.backbone
    unreadables = Unreadables(refuse=refuse)
    transform = build_transform(backbone, recorded.ten_crop)
    loader = PictureLoader(files, files.names, transform, normalization_of(backbone), unreadables)
    extractor = _extractor(recorded, loader)
    workers = threads if extractor.in_threads else 1
    names, vectors = [], []
    batches = batches_of(len(files.names), 0, _BATCH)
    found = extract_batches(extractor, files.names, batches, workers)
    for indices, (extracted, _) in zip(batches, found, strict=True):
        names += [each.image_id for each in extracted]
        vectors += [each.vectors for each in extracted]
        progress("extracting", indices.stop, len(files.names))
    return names, vectors, recorded.has_regions, unreadables.problems


def _extractor(recorded: _Recorded, loader: PictureLoader) -> FeatureExtractor:
    if recorded.detector:
        bounds = recorded.least_score, recorded.fewest, recorded.most
        return build_regions(loader, recorded.backbone, recorded.detector, *bounds, recorded.precision)
    if recorded.grid:
        return build_grid(loader, recorded.backbone, recorded.grid, recorded.precision)
    return build_pooled(loader, recorded.backbone, recorded.precision)


def _read(record: dict, source: Path) -> _Recorded:
    try:
        backbone = _network(Backbone, BACKBONE_KEYS, record["backbone"], source)
        detector = record["detector"] and _network(Detector, DETECTOR_KEYS, record["detector"], source)
        ten_crop, grid, fewest, most, least_score, _ = record["options"]
        bounds = int(fewest), int(most), float(least_score)
        precision = {FLOAT32: FLOAT32, BFLOAT16: POSSIBLE}[record.get("precision", FLOAT32)]
        return _Recorded(backbone, detector, bool(ten_crop), grid and int(grid), *bounds, precision)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source}: its record of the extraction is damaged or of another version: extract it again, or "
            "name the backbone"
        ) from error


def _network(kind: type, keys: dict[str, Key], values: dict, source: Path) -> Backbone | Detector:
    """Return a network as recorded; raise `UserError` if its file has other contents now."""
    where = f"{source}, record of the extraction"
    fields = {"path": str(values["path"])}
    for name, key in keys.items():
        value = values[name.lower()]
        value = check_value(name, key, list(value) if isinstance(value, tuple) else value, where)
        fields[name.lower()] = tuple(value) if isinstance(value, list) else value
    network = kind(**fields)
    path, digest = locate_weights(fields.get("weights") or network.model), values.get("file")
    if digest and os.path.isfile(path) and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise UserError(
            f"{path}: another network than the one that made {source} (its SHA-256 begins with "
            f"{str(digest)[:12]}): put that one there, or name its YAML file as the backbone"
        )
    return network
