"""Features of pictures for bundles that read features, by the backbone that made those of the training."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError


def extract(
    record: dict, source: Path, pictures: Sequence[str | Path | bytes]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the features [N,F] of pictures, or regions [N,R,F] with the number [N] of each.

    `pictures` are paths, or else all of them the bytes of files.
    `record` is that of the extraction, as the file `source` tells it. Raises UserError for a picture or a
    network that cannot be read, and where packages are missing that only the extraction needs.
    """
    held = isinstance(pictures[0], bytes)
    try:
        from datasets.features.memory import MemoryFeatures
        from datasets.pictures.files import HeldPictures, NamedPictures
        from engine.extraction.recorded import extract_as_recorded, needs_paddle
        from engine.runtime import choose_threads, prepare_runtime

        if needs_paddle(record) and "paddle" not in sys.modules:  # it is prepared once, before its import
            if threading.current_thread() is not threading.main_thread():  # its import takes SIGTERM over
                raise UserError(
                    f"{source}: its network needs Paddle, which is imported at a start: start again"
                )
            prepare_runtime("cpu")
        files = HeldPictures(pictures) if held else NamedPictures(pictures)
        names, vectors, has_regions, _ = extract_as_recorded(record, source, files, True, choose_threads())
    except ModuleNotFoundError as error:
        raise UserError(
            f"{'picture' if held else pictures[0]}: this bundle reads features, and extracting those of a "
            f"picture needs {error.name}: install requirements.txt, or give it features"
        ) from error
    store = MemoryFeatures(vectors, names, source, has_regions, vectors[0].shape[-1])
    rows = np.arange(len(names))
    return store.gather(rows, pool=False), store.counts(rows) if has_regions else None
