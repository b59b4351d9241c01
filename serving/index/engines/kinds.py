"""The engines that are saved beside the vectors of an index, by their names on its card."""

from pathlib import Path

import numpy as np

from config.progress import ShowProgress, no_progress
from serving.index.engines import codes, half, lists
from serving.index.engines.exact import Engine
from serving.index.engines.int8 import Int8
from serving.index.engines.saved import Saved

FILES = {"int8": codes.CODES, "float16": half.CODES, "lists": lists.LISTS}
PRECISIONS = {"scan": "float32", "int8": "8 bits", "float16": "float16", "lists": "8 bits"}


def build_engine(name: str, folder: Path, vectors: np.ndarray, show: ShowProgress = no_progress) -> Saved:
    """Write the file of an engine of `vectors` [N,D]; raise OSError, and UserError for huge numbers."""
    build = {"int8": codes.build_codes, "float16": half.build_half, "lists": lists.build_lists}
    return build[name](folder, vectors, show)


def load_engine(folder: Path, saved: Saved, dimension: int, threads: int) -> Engine:
    """Return the engine whose file is in `folder`; raise UserError where that is not what was written."""
    if saved.name == "int8":
        return Int8(codes.load_codes(folder, saved, dimension), threads)
    if saved.name == "float16":
        return half.load_half(folder, saved, dimension, threads)
    return lists.load_lists(folder, saved)
