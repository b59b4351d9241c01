"""A browser, a service with pictures, and axe; without any of them the tests are skipped, in one line."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from serving.bundle.bundle import Bundle
from serving.index import build
from serving.index.finishing import Options
from serving.index.sources import open_source
from tests.bundle_files import COLOURS, write_pixel_bundle
from tests.served import Served

ROOT = Path(__file__).resolve().parents[2]
MISSING = "`make test-browser` installs what the browser's tests need: {}"
KEY = "the key of these tests"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(os.environ.get("AXE", ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Return Chromium without a window, for one module: beside Playwright's event loop no other runs."""
    pytest.importorskip("fastapi", reason=MISSING.format("FastAPI"))
    playwright = pytest.importorskip("playwright.sync_api", reason=MISSING.format("Playwright"))
    if CHROMIUM is None:
        pytest.skip(MISSING.format("Chromium"))
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the source of axe-core."""
    if not AXE.is_file():
        pytest.skip(MISSING.format("axe-core"))
    return AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(browser, tmp_path_factory) -> Path:
    """Return a folder with forty pictures of six colours, their captions, a bundle and a key."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "photos").mkdir()
    lines, names = [], list(COLOURS)
    for number in range(40):
        name = names[number % len(names)]
        picture = Image.new("RGB", (240, 160 + 4 * number), COLOURS[name])
        other = tuple(255 - part for part in COLOURS[name])
        ImageDraw.Draw(picture).ellipse((20, 20, 30 + number, 30 + number), fill=other)
        picture.save(folder / "photos" / f"{name}_{number:02d}.png")
        about = {"number": number, "tags": [name, "flat"]}
        lines.append({"id": f"{name}_{number:02d}.png", "caption": name, "metadata": about})
    (folder / "about.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_pixel_bundle(folder / "bundle")
    (folder / "key.txt").write_text(KEY)
    return folder


@pytest.fixture(scope="module")
def served(folder) -> Iterator[Served]:
    """Return a service of these pictures."""
    photos = (
        "--photos",
        folder / "photos",
        "--bundle",
        folder / "bundle",
        "--captions",
        folder / "about.jsonl",
    )
    service = Served(folder, *photos, "--key_file", folder / "key.txt")
    yield service
    if service.process.poll() is None:
        service.end()


@pytest.fixture(scope="module")
def pair(folder, served) -> Iterator[Served]:
    """Return a service of the index of these pictures, and of another of the same pictures beside it."""
    bundle = write_pixel_bundle(folder / "other_bundle", seed=1)
    source = open_source(folder / "photos", folder / "about.jsonl")
    build.build(Bundle.open(bundle), source, folder / "other.index", Options(bundle_folder=str(bundle)))
    (folder / "pair").mkdir()
    both = ("--index", folder / "photos.index", "--index", folder / "other.index")
    service = Served(folder / "pair", *both)
    yield service
    service.end()


@pytest.fixture
def page(browser, served) -> Iterator:
    """Return a page of the service; an error in its scripts or a refusal by its policy fails the test."""
    with page_of(browser, served) as page:
        yield page


@pytest.fixture
def page_of_two(browser, pair) -> Iterator:
    """Return a page of the service of two indexes, watched alike."""
    with page_of(browser, pair) as page:
        yield page


@contextlib.contextmanager
def page_of(browser, service: Served) -> Iterator:
    """Open a page of a service; an error in its scripts or a refusal by its policy fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, base_url=service.address)
    context.set_default_timeout(15_000)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Policy" in message.text else None)
    yield page
    context.close()
    assert not problems
