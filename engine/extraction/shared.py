"""Extract features with all processes of a job: each describes every W-th batch, the first writes them."""

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
    """Do what `extractors.extract_all` does, in every process of a job; the first alone has a `folder`.

    Batches are written in their order, so that what is in the folder after a stop is what one process would
    have left, and any number of processes can go on. What one process raises ends the work of all.
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
    """Return what `ExtractionFolder.add` takes as a message to another process."""
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
    """Return what was packed."""
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
