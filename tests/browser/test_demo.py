"""The demo in a real browser, as `make serve` shows it; SCREENSHOTS=docs writes its pictures anew."""

from collections.abc import Iterator

import pytest

from tests.browser.conftest import ROOT, page_of
from tests.browser.test_page import save
from tests.served import Served

INDEXES, PICTURES = ROOT / "out" / "demo" / "indexes", ROOT / "data" / "scenes" / "images"
SENTENCE = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def demo(browser, tmp_path_factory) -> Iterator[Served]:
    """Return a service of the demo's two indexes; without them the tests are skipped."""
    if not all((INDEXES / name / "card.json").is_file() for name in ("vsrn", "vsepp")):
        pytest.skip("`make demo` and `make serve` make the indexes that are shown here")
    both = ("--index", INDEXES / "vsrn", "--index", INDEXES / "vsepp", "--pictures", PICTURES)
    service = Served(tmp_path_factory.mktemp("demo"), *both)
    yield service
    service.end()


@pytest.fixture
def page(browser, demo) -> Iterator:
    """Return a page of the demo, as large as the pictures in docs/."""
    with page_of(browser, demo) as page:
        page.set_viewport_size({"width": 1180, "height": 860})
        yield page


def test_a_sentence_less_another_is_shown_with_pictures(page):
    page.goto("/?q=a+red+circle&minus:0.75=blue+square")
    page.wait_for_load_state("networkidle")
    widths = page.locator(".open img").evaluate_all("(all) => all.map((each) => each.naturalWidth)")
    assert all(widths[:6]), "the first row has its pictures"
    assert "red" in page.locator(".grid .text").first.inner_text()
    save(page, "service.png")


def test_a_model_of_regions_frames_what_made_the_score_and_underlines_words(page):
    page.goto("/")
    page.get_by_role("searchbox").fill(SENTENCE)
    page.keyboard.press("Enter")
    page.wait_for_selector("#results:not([aria-busy]) .grid")
    page.locator(".open").first.click()
    page.wait_for_selector("#hit-words:not([hidden])")
    page.wait_for_load_state("networkidle")
    frames = page.locator("#hit-regions rect:not(.halo)")
    assert 1 <= frames.count() <= 3
    shown, picture = frames.first.bounding_box(), page.locator("#hit-picture").bounding_box()
    assert picture["x"] - 4 <= shown["x"] and shown["width"] < picture["width"]
    assert page.locator("#hit-words .w2, #hit-words .w3").count() >= 2, "several words count"
    save(page, "service_hit.png")


def test_two_models_stand_side_by_side(page):
    page.goto("/?" + f"q={SENTENCE}&index=vsrn&beside=vsepp".replace(" ", "+"))
    page.wait_for_load_state("networkidle")
    assert page.locator(".sides h2").all_inner_texts() == ["vsrn", "vsepp"]
    tops = page.locator(".sides .grid").evaluate_all("(grids) => grids.map((each) => each.offsetTop)")
    assert tops[0] == tops[1], "the sides begin at the same height"
    save(page, "service_sides.png")
