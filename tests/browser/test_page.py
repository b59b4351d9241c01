"""The page in a real browser: typing, pictures, keys, the dialog, the way back, and others' changes."""

import base64
import contextlib
import io
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
from PIL import Image

from serving.app.client import Client
from tests.browser.conftest import KEY
from tests.bundle_files import COLOURS
from tests.served import Served

TOO_SMALL = """() => [...document.querySelectorAll("a, button, input, summary")]
    .filter((each) => each.checkVisibility({ contentVisibilityAuto: true }))
    .filter((each) => !each.closest(".hidden, p, footer, .skip, .docs"))
    .filter((each) => each.getBoundingClientRect().height < 24 || each.getBoundingClientRect().width < 24)
    .map((each) => each.outerHTML.slice(0, 90))"""
# Words that join a centred line settle by less than 0.001; what hits or the form do is ten times that.
WATCH_MOVES = """window.moved = 0;
    new PerformanceObserver((list) => {
        for (const each of list.getEntries()) if (each.value > 0.001) window.moved += each.value;
    }).observe({ type: "layout-shift", buffered: true });"""
SETTLED = "#results:not([aria-busy]) .grid li"


def ask(page, text: str) -> None:
    page.goto("/")
    page.get_by_role("searchbox").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=*")
    page.wait_for_selector(SETTLED)


def until(page, expression: str) -> None:
    """Wait until an expression holds; the page's policy forbids what Playwright has for it."""
    ends = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < ends, expression
        page.wait_for_timeout(30)


def captions(page) -> list[str]:
    return page.locator(".grid .text").all_inner_texts()


def png(colour, size=(90, 60)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def hand_over(page, event: str, data: bytes) -> None:
    """Drop or paste a picture file, as a browser reports it."""
    page.evaluate(
        """([event, data]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "a.png", { type: "image/png" }));
            const made = event === "paste"
                ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
                : new DragEvent(event, { dataTransfer: carried, bubbles: true, cancelable: true });
            document.body.dispatchEvent(made);
        }""",
        [event, base64.b64encode(data).decode()],
    )


def test_typing_finds_and_tells_by_voice(page):
    ask(page, "red")
    assert captions(page)[:3] == ["red"] * 3
    assert page.title() == "Image search" and page.locator(".grid > li").count() == 24
    until(page, "document.getElementById('status').textContent.includes('of 40')")


def test_a_slow_answer_is_waited_for_in_sight_and_by_voice_until_the_last_is_there(page):
    page.goto("/")
    held = []
    page.route("**/results?**", lambda route: held.append(route))
    for number, text in enumerate(("red", "blue"), start=1):  # the second takes the place of the first
        page.get_by_role("searchbox").fill(text)
        page.keyboard.press("Enter")
        until(page, "document.getElementById('status').textContent === 'Searching …'")
        ends = time.monotonic() + 15
        while len(held) < number and time.monotonic() < ends:
            page.wait_for_timeout(30)
    assert len(held) == 2
    assert page.evaluate("document.getElementById('results').ariaBusy") == "true"
    assert page.evaluate("getComputedStyle(document.body, '::before').animationName") == "waiting"
    held[-1].continue_()
    page.wait_for_selector(SETTLED)
    assert captions(page)[0] == "blue"
    assert page.evaluate("getComputedStyle(document.body, '::before').animationName") == "none"


def test_an_example_is_a_link_that_asks(page):
    page.goto("/")
    link = page.locator(".examples a").first
    text = link.inner_text()
    link.click()
    page.wait_for_selector(SETTLED)
    assert captions(page)[0] == text and page.get_by_role("searchbox").input_value() == text


def test_the_way_back_leads_to_what_was_asked_before(page):
    ask(page, "red")
    page.get_by_role("searchbox").fill("blue")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.grid .text')?.textContent === 'blue'")
    page.go_back()
    until(page, "document.querySelector('.grid .text')?.textContent === 'red'")
    assert page.get_by_role("searchbox").input_value() == "red"
    page.go_forward()
    until(page, "document.querySelector('.grid .text')?.textContent === 'blue'")
    page.reload()
    assert captions(page)[0] == "blue"


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_picture_is_dropped_pasted_or_chosen_and_back_finds_it_again(page, way):
    page.goto("/")
    if way == "choose":
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(COLOURS["green"])}
        )
    else:
        hand_over(page, way, png(COLOURS["green"]))
    page.wait_for_selector(SETTLED)
    assert captions(page)[0] == "green" and "picture=" in page.url
    until(page, "document.querySelector('.chips img')?.naturalWidth === 90")
    page.get_by_role("searchbox").fill("red")
    page.get_by_role("link", name="Remove your picture").click()
    page.wait_for_selector(".examples")
    page.go_back()
    page.wait_for_selector(SETTLED)
    assert captions(page)[0] == "green"


def test_a_picture_that_another_browser_chose_is_explained(page):
    page.goto("/?picture=abc")
    assert "Choose it again" in page.locator(".notice").inner_text()


def test_arrow_keys_move_in_the_grid_and_one_tab_leaves_a_hit(page):
    ask(page, "red")
    columns = page.evaluate(
        "new Set([...document.querySelectorAll('.grid > li')].map((each) => each.offsetLeft)).size"
    )
    page.locator(".open").first.focus()

    def place() -> int:
        return page.evaluate(
            "[...document.querySelectorAll('.grid > li')].indexOf(document.activeElement.closest('li'))"
        )

    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowLeft", columns),
        ("End", 23),
        ("Home", 0),
        ("ArrowUp", 0),
    ):
        page.keyboard.press(key)
        assert place() == expected, key
    reachable = page.locator('.grid .open:not([tabindex="-1"])')
    assert reachable.count() == 1
    page.keyboard.press("Tab")
    assert place() == 0 and page.evaluate("document.activeElement.textContent").startswith("More like this")


def test_the_dialog_goes_through_hits_and_gives_the_focus_back(page):
    ask(page, "red")
    page.locator(".open").nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert page.locator("#hit-place").inner_text() == "Place 2"
    page.wait_for_selector("#hit-words:not([hidden])")
    assert page.locator("#hit-metadata dd").last.inner_text() == "red, flat"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#hit-place").inner_text() == "Place 4"
    page.keyboard.press("ArrowLeft")
    until(page, "document.getElementById('hit-picture').naturalWidth === 240")
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    index = "[...document.querySelectorAll('.open')].indexOf(document.activeElement)"
    assert page.evaluate(index) == 2


def test_terms_are_added_taken_off_and_shown_with_their_shares(page):
    ask(page, "red")
    page.get_by_text("Refine").click()
    page.get_by_label("but without").fill("blue")
    page.keyboard.press("Enter")
    page.wait_for_url("**minus=blue**")
    page.wait_for_selector(".chips")
    assert page.locator(".chips .label").all_inner_texts() == ["red", "blue"]
    shares = page.locator(".grid > li").first.locator(".shares .amount").all_inner_texts()
    score = float(page.locator(".score").first.inner_text().split()[-1])
    assert sum(map(float, shares)) == pytest.approx(score, abs=0.0025)
    page.locator(".grid > li").nth(2).get_by_title("Add to the query").click()
    until(page, "document.querySelectorAll('.chips li').length === 3")
    page.get_by_role("link", name="Remove blue").click()
    until(page, "document.querySelectorAll('.chips li').length === 2")
    assert "minus" not in page.url and "like=" in page.url


def test_weights_of_terms_are_changed_again_and_again_and_change_the_shares(page):
    page.goto("/?q=red&minus=blue")
    before = page.locator(".grid > li").first.locator(".shares .amount").all_inner_texts()
    more = page.get_by_role("link", name="More weight for blue")
    more.focus()
    for expected in ("0.75", "1", "1.25"):
        page.keyboard.press("Enter")
        shown = "document.querySelectorAll('.chips .weight > span')[1].textContent"
        until(page, f"{shown}.endsWith(' {expected}')")
        until(page, "document.activeElement.dataset.again === 'more2'")  # the same button has the focus again
    assert "minus:1.25=blue" in unquote(page.url)
    page.wait_for_selector(SETTLED)
    first = page.locator(".grid > li").first
    after = first.locator(".shares .amount").all_inner_texts()
    assert after != before and "1.25" in page.locator(".chips .weight").nth(1).inner_text()
    score = float(first.locator(".score").inner_text().split()[-1])
    assert sum(map(float, after)) == pytest.approx(score, abs=0.0025)
    shares = page.locator(".grid .shares li:first-child .amount").all_inner_texts()
    mean = float(page.locator(".chips .amount").first.inner_text().split()[-1])
    assert mean == pytest.approx(sum(map(float, shares)) / len(shares), abs=0.006)
    page.get_by_role("searchbox").fill("green")  # a new sentence keeps the other terms with their weights
    page.keyboard.press("Enter")
    until(
        page,
        "location.search.includes('q=green') && decodeURIComponent(location.search).includes('minus:1.25')",
    )


def test_sentences_that_are_added_and_taken_off_are_explained_word_by_word(page):
    page.goto("/?q=red&minus:0.25=blue&like=green_01.png")
    page.locator(".open").first.click()
    page.wait_for_selector("#hit-words:not([hidden])")
    assert [text.strip() for text in page.locator("#hit-words .sentence").all_inner_texts()] == [
        "red",
        "− blue",
    ]
    assert page.locator("#hit-shares .share").count() == 3


def test_two_indexes_answer_one_query_side_by_side(page_of_two):
    page = page_of_two
    page.goto("/?q=red")
    page.get_by_role("link", name="photos.index beside other.index").click()
    page.wait_for_selector(".sides")
    sides = page.locator(".sides > section")
    assert sides.locator("h2").all_inner_texts() == ["photos.index", "other.index"]
    ranks = [
        {each["id"]: each["rank"] for each in side}
        for side in page.evaluate(
            "[...document.querySelectorAll('.sides > section')].map((side) => "
            "[...side.querySelectorAll('li[data-hit]')].map((hit) => JSON.parse(hit.dataset.hit)))"
        )
    ]
    assert len(ranks[0]) == len(ranks[1]) == 24 and ranks[0] != ranks[1]
    for this, (name, mine, theirs) in enumerate(
        (("other.index", ranks[0], ranks[1]), ("photos.index", ranks[1], ranks[0]))
    ):
        told = sides.nth(this).locator(".there").all_inner_texts()
        expected = [f"place {theirs[i]} in {name}" if i in theirs else f"not shown in {name}" for i in mine]
        assert told == expected
    both = len(ranks[0].keys() & ranks[1].keys())
    assert f"{both} of these pictures are on both sides" in sides.first.locator(".heading").inner_text()
    page.get_by_role("searchbox").fill("blue")  # the next query goes to both, too
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.sides .text')[0]?.textContent === 'blue'")
    assert sides.count() == 2 and "beside=other.index" in page.url
    sides.nth(1).locator(".open").first.click()
    page.wait_for_selector("#hit-words:not([hidden])")
    until(page, "document.getElementById('hit-picture').naturalWidth > 0")


def test_each_index_pages_and_explains_by_itself(page_of_two):
    page = page_of_two
    page.goto("/?q=red&index=other.index")
    assert page.locator("section[data-index]").get_attribute("data-index") == "other.index"
    asked = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**offset=24**")
    assert "index=other.index" in page.url
    page.wait_for_selector(SETTLED)
    page.locator(".open").first.click()
    page.wait_for_selector("#hit-words:not([hidden])")
    assert any('"index":"other.index"' in each for each in asked)
    page.goto("/?q=red&index=none")
    assert "no index called none" in page.locator(".notice").inner_text()


def test_a_condition_chooses_and_a_wrong_one_is_told(page):
    page.goto("/?q=red&where=number+%3E%3D+30")
    assert 0 < page.locator(".grid > li").count() <= 10
    page.get_by_label("Only where").fill("nubmer > 3")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice")
    assert "number" in page.locator(".notice").inner_text()


def test_pages_follow_each_other(page):
    ask(page, "red")
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**offset=24**")
    until(page, "document.querySelectorAll('.grid > li').length === 16")
    assert page.locator(".grid .rank .hidden").first.inner_text() == "Place 25"


def test_what_one_adds_and_deletes_another_sees(page, served, tmp_path):
    (tmp_path / "new.png").write_bytes(png(COLOURS["yellow"]))
    client = Client(served.address, KEY)
    client.put("a new one.png", tmp_path / "new.png", "a new yellow")
    try:
        ask(page, "yellow")
        assert "a new yellow" in captions(page)
    finally:
        client.delete("a new one.png")
    page.reload()
    assert captions(page) and "a new yellow" not in captions(page)


def test_a_service_that_is_away_is_told_and_found_again(page, folder, browser):
    """It is killed under the page, and another takes its place."""
    service = Served(folder, "--index", folder / "photos.index")
    context = browser.new_context(base_url=service.address)
    other = context.new_page()
    ask(other, "red")
    service.process.kill()
    service.process.wait()
    service.process.stdout.close()
    other.get_by_role("searchbox").fill("blue")
    other.keyboard.press("Enter")
    other.wait_for_selector(".notice")
    assert "did not answer" in other.locator(".notice").inner_text()
    port = service.address.rpartition(":")[2]
    again = Served(folder, "--index", folder / "photos.index", "--port", port)
    other.keyboard.press("Enter")
    other.wait_for_selector(SETTLED)
    assert captions(other)[0] == "blue"
    context.close()
    again.end()


def test_without_javascript_forms_and_links_do_the_same(browser, served):
    context = browser.new_context(java_script_enabled=False, base_url=served.address)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("searchbox").fill("red")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**q=red**")
    assert captions(page)[0] == "red"
    page.locator(".actions a").first.click()
    page.wait_for_url("**like=**")
    assert captions(page)[0] == "red"
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**offset=24**")
    assert page.locator(".grid > li").count() == 15
    context.close()


def test_the_page_speaks_chinese(page):
    page.goto("/?q=red")
    page.get_by_role("link", name="中文").click()
    page.wait_for_selector("html[lang=zh-Hans]")
    assert page.get_by_role("heading", name="结果").count() == 1 and captions(page)[0] == "red"


def test_the_page_is_small_and_nothing_moves_when_thumbnails_come(page):
    sizes = []
    page.on("response", lambda answer: sizes.append((answer.url, len(answer.body()))))
    page.add_init_script(WATCH_MOVES)
    page.goto("/?q=red")
    page.wait_for_load_state("networkidle")
    assert sum(size for url, size in sizes if "/v1/thumbnails/" not in url) < 100_000
    page.mouse.move(500, 400)
    for _ in range(30):  # thumbnails further down come late
        page.mouse.wheel(0, 120)
        page.wait_for_timeout(16)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("scrollY") > 1000 and page.evaluate("window.moved") == 0


@contextlib.contextmanager
def slow_line(address: str, cut_before: str, pause: float):
    """Yield the address of a line to a service that waits `pause` seconds before each such place."""

    class Line(BaseHTTPRequestHandler):
        def do_GET(self):
            with urlopen(address + self.path, timeout=15) as answer:
                body, head = answer.read(), answer.headers
            self.send_response(200)
            for name in ("content-type", "content-security-policy"):
                if name in head:
                    self.send_header(name, head[name])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            for number, piece in enumerate(re.split(f"(?={cut_before})".encode(), body)):
                if number:
                    time.sleep(pause)
                self.wfile.write(piece)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Line) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "query", ["/", "/?q=red", "/?like=red_00.png&plus=blue", "/?q=red&where=number%20%3E%20500"]
)
def test_a_page_that_comes_in_pieces_does_not_move(browser, served, query):
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.add_init_script(WATCH_MOVES)
    places = '<div id="results"|<div class="|<ol|<li data-hit|<p class="score|<footer'
    with slow_line(served.address, places, pause=0.05) as address:
        page.goto(address + query)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.moved") == 0
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(browser, served, axe, width, scheme):
    """Pictures of what was looked at are written where SCREENSHOTS says."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        base_url=served.address,
        reduced_motion="reduce",
    )
    page = context.new_page()
    views = {
        "start": "/",
        "hits": "/?q=red&minus=blue",
        "nothing": "/?q=zebra",
        "chinese": "/?q=red&lang=zh",
        "docs": "/docs",
        "dialog": "/?q=red",
    }
    for name, address in views.items():
        page.goto(address)
        if name == "dialog":
            page.locator(".open").first.click()
            page.wait_for_selector("#hit-words:not([hidden])")
        page.wait_for_load_state("networkidle")
        save(page, f"{name}_{width}_{scheme}.png")
        check(page, axe, name)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_axe_finds_nothing_where_two_indexes_stand_side_by_side(browser, pair, axe, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=pair.address
    )
    page = context.new_page()
    page.goto("/?q=red&minus:0.75=blue&like=red_00.png&beside=other.index")
    page.wait_for_load_state("networkidle")
    save(page, f"sides_{width}_{scheme}.png")
    check(page, axe, "sides")
    context.close()


def test_forced_colours_keep_what_is_shown_apart(browser, served, axe):
    """A system's own colours replace ours: bars, frames and what is chosen must not rest on ours alone."""
    context = browser.new_context(
        viewport={"width": 1000, "height": 900}, forced_colors="active", base_url=served.address
    )
    page = context.new_page()
    page.goto("/?q=red&minus=blue")
    page.wait_for_load_state("networkidle")
    save(page, "forced_colours.png")
    shown = """(selector) => { const style = getComputedStyle(document.querySelector(selector));
        return [style.fill, style.stroke, style.borderTopStyle, style.borderTopWidth]; }"""
    fill, track = page.evaluate(shown, ".score .fill"), page.evaluate(shown, ".score .track")
    assert fill[0] != track[0], "a bar must stand out from what it lies on"
    for framed in ("article", ".chips li", ".line", "header nav a[aria-current]"):
        style, width = page.evaluate(shown, framed)[2:]
        assert style != "none" and float(width.removesuffix("px")) >= 1, framed
    page.locator(".open").first.focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    check(page, axe, "forced colours")
    context.close()


def check(page, axe: str, name: str) -> None:
    """Fail where axe finds something, where the page is wider than the screen, and for small targets."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    page.evaluate(axe)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("(tags) => axe.run(document, { runOnly: tags })", tags)
    assert not found["violations"], [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
    small = page.evaluate(TOO_SMALL)
    assert not small, name


def save(page, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / name)
