"""Shared by the tools that extract features: what an extraction depends on, and writing its file."""

import argparse
import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path

from _progress import progress_display

from config.files.networks import Backbone, Detector
from datasets.conversion.contents import read_contents
from datasets.conversion.precision import Deviation
from datasets.conversion.writer import FeatureDraft
from datasets.features.store import FeatureStore
from engine.extraction.extractors import FeatureExtractor
from engine.runtime import choose_threads
from engine.weights.published_cnn import locate_weights


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the option of what the network multiplies."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="what an ONNX network multiplies: bfloat16 is faster and less exact (docs/precision.md); auto: "
        "bfloat16 where processor and network allow it (default %(default)s)",
    )


def describe_network(network: Backbone | Detector) -> dict[str, object]:
    """Return everything that features depend on: the network's YAML file, and the checksum of its weights."""
    weights = getattr(network, "weights", "") or network.model
    return {**asdict(network), "file": _digest(locate_weights(weights))}


def workers_of(extractor: FeatureExtractor, wanted: int | None) -> int:
    """Return the number of threads of an extraction: `wanted`, or what keeps all cores busy."""
    if wanted is not None:
        return wanted
    return choose_threads() if extractor.in_threads else 1


def _digest(path: Path) -> str | None:
    """Return the checksum of a network's file; None if `path` is no file but the name of a network."""
    if not os.path.isfile(path):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_features(source: FeatureStore, output: Path, dtype: str, record: dict) -> tuple[str, Deviation]:
    """Write the features of `source` and the `record` of their extraction to `output`, and compare them.

    Returns a summary, and how far the values of both differ.
    """
    contents = replace(read_contents(source), extraction=record)
    draft = FeatureDraft(output, source, contents, dtype)
    with progress_display() as show:
        draft.write(show)
        deviation = draft.compare(show)
    draft.finish()
    return (
        f"{output}: {len(source)} pictures, {source.describe()}, {dtype}; {contents.describe()}",
        deviation,
    )
