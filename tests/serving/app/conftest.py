"""Indexes of coloured pictures and of features, by bundles that need no training, and services of them."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs requirements-service.txt")

from fastapi.testclient import TestClient

from serving.app.collection import Collection
from serving.app.metrics import Metrics
from serving.app.pictures import Thumbnails, picture_folder
from serving.app.service import make_app
from serving.app.settings import Settings
from serving.bundle.bundle import Bundle
from serving.index import build
from serving.index.finishing import Options
from serving.index.sources import open_source
from tests.bundle_files import COLOURS, features_of, sentences_of, write_bundle, write_pixel_bundle

KEY, READ_KEY = "a key of many letters", "another key to read"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Return the index of twelve pictures of six colours, one with a folder and an odd name."""
    folder = tmp_path / "photos"
    (folder / "a trip").mkdir(parents=True)
    lines = []
    for number, (name, colour) in enumerate([*COLOURS.items(), *COLOURS.items()]):
        file = f"a trip/{name} é {number}.png" if number == 7 else f"{name}_{number}.png"
        Image.new("RGB", (60 + number, 40), tuple(min(255, part + number) for part in colour)).save(
            folder / file
        )
        lines.append({"id": file, "caption": name, "metadata": {"number": number, "tags": [name[0]]}})
    (tmp_path / "about.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bundle = write_pixel_bundle(tmp_path / "bundle")
    source = open_source(folder, tmp_path / "about.jsonl")
    options = Options(bundle_folder=str(bundle))
    build.build(Bundle.open(bundle), source, tmp_path / "photos.index", options)
    return tmp_path / "photos.index"


@pytest.fixture
def features(tmp_path) -> Path:
    """Return the index of the features of 300 pictures, which has a cut-off."""
    bundle, sentences = write_bundle(tmp_path / "features_bundle"), sentences_of(300)
    np.save(tmp_path / "test_ims.npy", features_of(sentences))
    lines = [
        json.dumps({"id": str(row), "caption": text, "metadata": {"year": 2000 + row % 10}})
        for row, text in enumerate(sentences)
    ]
    (tmp_path / "features.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "test_ims.npy", tmp_path / "features.jsonl")
    options = Options(bundle_folder=str(bundle))
    build.build(Bundle.open(bundle), source, tmp_path / "features.index", options)
    return tmp_path / "features.index"


@pytest.fixture
def serve() -> Iterator[Callable]:
    """Return what starts a service of an index, and of others beside it, and gives a client of it."""
    with contextlib.ExitStack() as stack:

        def start(index: Path, *beside: Path, raised: bool = True, **settings: object) -> TestClient:
            metrics, opened = Metrics(), []
            pixels = Settings(**settings).upload_pixels
            for folder in (index, *beside):
                collection = Collection(folder, metrics, pixels=pixels)
                thumbnails = Thumbnails(picture_folder(None, collection.card.source), folder / "pictures")
                opened.append((collection, thumbnails))
            app = make_app(*opened[0], Settings(**settings), metrics, opened[1:])
            client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=raised)
            return stack.enter_context(client)

        yield start


def bearing(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}
