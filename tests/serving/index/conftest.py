"""Indexes in folders, made of given vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.index.build import publish
from serving.index.card import Card
from serving.index.finishing import Options, finish
from serving.index.items import Item, Items
from serving.index.vectors import VectorFile
from tests.vector_makers import items_named


@pytest.fixture
def make_index(tmp_path) -> Callable[..., Path]:
    """Return a function that writes an index of vectors [N,D] and returns its folder."""

    def make_index(
        vectors: np.ndarray,
        engine: str = "auto",
        items: list[Item] | None = None,
        measure: str = "cosine",
        holds: str = "pictures",
        name: str = "index",
        options: Options | None = None,
    ) -> Path:
        folder = tmp_path / name
        draft = folder / "building"
        draft.mkdir(parents=True)
        VectorFile(draft, vectors.shape[1]).write(0, vectors)
        database = Items(draft, create=True)
        database.insert(items or items_named(len(vectors)))
        database.close()
        card = Card("", holds, len(vectors), vectors.shape[1], measure, "a" * 64)
        publish(folder, draft, finish(draft, card, options or Options(engine), None))
        return folder

    return make_index
