"""Small data folders in the layouts that users bring."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def precomp(tmp_path: Path) -> Callable[..., Path]:
    """Writer of a folder with one split: features [4,6] and two captions an image, unless told otherwise."""

    def write(
        split: str = "train",
        features: np.ndarray | None = None,
        captions: list[str] | None = None,
        ids: list[str] | None = None,
    ) -> Path:
        if features is None:
            features = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
        if captions is None:
            captions = [f"a dog number {index}" for index in range(2 * len(features))]
        np.save(tmp_path / f"{split}_ims.npy", features)
        (tmp_path / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
        if ids is not None:
            (tmp_path / f"{split}_ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
        return tmp_path

    return write
