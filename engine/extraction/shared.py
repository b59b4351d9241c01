"""Extracts features with all W processes of a job: each makes every W-th batch, and process 0 writes all."""

import io
import json
from collections.abc import Sequence

import numpy as np

from config.progress import ShowProgress, no_progress
from datasets.conversion.extraction_folder import Extracted, ExtractionFolder
from engine.extraction.extractors import FeatureExtractor, batches_of, extract_batches
from engine.parallel.processes import all_or_none, broadcast_values, gather_bytes, process_number, world_size


def extract_together(
    extractor: FeatureExtractor,
    ids: Sequence[str],
    folder: ExtractionFolder | None,
    batch_size: int,
    workers: int,
    progress: ShowProgress = no_progress,
) -> None:
    """Do what `extractors.extract_all` does, in all processes of a job; process 0 alone has a `folder`.

    Batches are written in order, so that a stop leaves the folder as one process would, and any number of
    processes can resume. An error in one process ends the work of all.
    """
    (done,) = broadcast_values([folder.done if folder else 0])
    batches = batches_of(len(ids), int(done), batch_size)
    own = extract_batches(extractor, ids, batches[process_number() :: world_size()], workers)
    messages = (pack(*found) for found in own)
    for start in range(0, len(batches), world_size()):
        abreast = batches[start : start + world_size()]
        message = all_or_none(lambda: next(messages, b""))
        for indices, described in zip(abreast, gather_bytes(message), strict=False):  # the last may be fewer
            if folder:
                folder.add(*unpack(described))
            progress("extracting", indices.stop, len(ids))


def pack(pictures: Sequence[Extracted], problems: dict[str, str]) -> bytes:
    """Return the arguments of `ExtractionFolder.add` as a message to another process."""
    facts = [[each.image_id, each.size, each.tags, each.confidences] for each in pictures]
    arrays = {"facts": np.frombuffer(json.dumps([facts, problems]).encode(), np.uint8)}
    for number, each in enumerate(pictures):
        arrays[f"vectors{number}"] = each.vectors
        if each.boxes is not None:
            arrays[f"boxes{number}"] = each.boxes
    message = io.BytesIO()
    np.savez(message, **arrays)
    return message.getvalue()


def unpack(message: bytes) -> tuple[list[Extracted], dict[str, str]]:
    """Return the arguments that `pack` was called with."""
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        facts, problems = json.loads(arrays["facts"].tobytes())
        pictures = [
            Extracted(
                image_id,
                arrays[f"vectors{number}"],
                tuple(size),
                arrays.get(f"boxes{number}"),
                tags,
                confidences,
            )
            for number, (image_id, size, tags, confidences) in enumerate(facts)
        ]
    return pictures, problems
