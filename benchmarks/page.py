"""The page in Chromium, from a warm service: how soon it can be used, what it loads, and how it scrolls.

    python benchmarks/page.py          (needs what `make browser` installs)

It is usable when its field can be typed into and its script has run. Two hundred hits are scrolled to their
end by the wheel, as Chromium's own trace sees it: a frame is dropped where its trace says so. The same
is done with two hundred empty boxes on a page of the same height, which say what Chromium draws here, without
a graphics card: what the hits lack beyond them is the page's doing.
"""

from _report import report

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.bundle_files import COLOURS, write_pixel_bundle
from tests.served import Served

HITS, ROUNDS = 200, 5
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("expected Chromium: make browser installs it")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        service = pictures(Path(temporary))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            starts, sizes = zip(*(opened(browser, service.address) for _ in range(ROUNDS)), strict=True)
            report("page: usable, of 1 s", median(starts), 1.0, 1, "s", False)
            report("page: bytes before thumbnails, of 100 kB", median(sizes) / 1000, 100.0, 1, "kB", False)
            shown = {"hits": [], "boxes": []}
            for _ in range(3):  # in turn, so that both meet the same machine
                shown["hits"].append(scrolled(browser, f"{service.address}/?q=red&k={HITS}"))
                shown["boxes"].append(scrolled(browser, boxes(shown["hits"][-1].height)))
            print(shown, flush=True)
            share = {name: median(each.share for each in found) for name, found in shown.items()}
            report(f"page: share of frames shown, {HITS} hits, of all", share["hits"], 1.0, 0.99, "", True)
            of = f"{HITS} hits, of {HITS} empty boxes'"
            report(f"page: share of frames shown, {of}", share["hits"], share["boxes"], 0.99, "", True)
        finally:
            browser.close()
            service.end()


def pictures(folder: Path) -> Served:
    """Serve 250 noisy pictures of six colours."""
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(250):
        name = list(COLOURS)[number % len(COLOURS)]
        noisy = np.clip(np.int16(COLOURS[name]) + random.integers(-30, 30, (240, 320, 3)), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / "photos" / f"{name}_{number}.jpg")
    write_pixel_bundle(folder / "bundle")
    return Served(folder, "--photos", folder / "photos", "--bundle", folder / "bundle")


def opened(browser, address: str) -> tuple[float, int]:
    """Return the seconds until a new browser can use the results page, and the bytes before thumbnails."""
    context = browser.new_context()
    page, sizes = context.new_page(), []
    page.on("response", lambda answer: "/v1/thumb" in answer.url or sizes.append(len(answer.body())))
    began = time.perf_counter()
    page.goto(f"{address}/?q=red", wait_until="domcontentloaded")  # modules have run by then
    page.get_by_role("searchbox").fill("blue")
    took = time.perf_counter() - began
    page.wait_for_load_state("networkidle")
    context.close()
    return took, sum(sizes)


class Scroll(NamedTuple):
    """How many frames Chromium drew and dropped, and the height of what was scrolled, in pixels."""

    drawn: int
    dropped: int
    height: int

    @property
    def share(self) -> float:
        """Return the share of the frames that were due which was drawn."""
        return self.drawn / (self.drawn + self.dropped)


def boxes(height: int) -> str:
    """Return the address of a page of empty boxes, five in a row, as high as a page of hits."""
    row = height / (HITS / 5) - 18
    grid = "body { margin: 0; display: grid; grid-template-columns: repeat(5, 1fr); gap: 18px }"
    box = f"p {{ margin: 0; height: {row:.0f}px; background: #dde }}"
    return "data:text/html," + quote(f"<!doctype html><style>{grid} {box}</style>" + "<p></p>" * HITS)


def scrolled(browser, address: str) -> Scroll:
    """Return how many frames Chromium drew and dropped while a page was scrolled to its end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    session, events = context.new_cdp_session(page), []
    session.on("Tracing.dataCollected", lambda part: events.extend(part["value"]))
    ended = []
    session.on("Tracing.tracingComplete", lambda _: ended.append(True))
    categories = ["disabled-by-default-devtools.timeline.frame", "devtools.timeline.frame", "cc,benchmark"]
    session.send("Tracing.start", {"categories": ",".join(categories), "transferMode": "ReportEvents"})
    page.mouse.move(640, 450)
    height = page.evaluate("document.documentElement.scrollHeight")
    far = height - page.evaluate("innerHeight")
    for _ in range(far // 120 + 1):
        page.mouse.wheel(0, 120)
        page.wait_for_timeout(16)
    assert page.evaluate("scrollY") >= far - 2, "it has come to the end"
    session.send("Tracing.end")
    while not ended:
        page.wait_for_timeout(20)
    context.close()
    names = [event["name"] for event in events]
    return Scroll(names.count("DrawFrame"), names.count("DroppedFrame"), height)


if __name__ == "__main__":
    main()
