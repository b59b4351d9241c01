"""The desk in a real browser: two keys judge, the page obeys its own policy, and the saved file is read."""

import json

import pytest
from PIL import Image

from engine.inspection.cases import open_result
from engine.inspection.judgements import doubted_pairs, read_judgements
from serving.reports.inspection.desk_page import write_desk
from serving.reports.pictures import PictureFolder
from tests.browser.test_page import TOO_SMALL
from tests.engine.inspection.evaluated import Split


@pytest.fixture
def desk(browser, tmp_path):
    """Return a page with the desk of twelve pairs, the lists behind it, and what its console said."""
    split = Split()
    split.captions = [
        text if place else "</script><script>x()</script> & \"'" for place, text in enumerate(split.captions)
    ]
    result = open_result(split.write(tmp_path / "a"))
    for number, name in enumerate(split.image_ids):
        Image.new("RGB", (40, 30), (10 * number, 90, 160)).save(tmp_path / name)
    pairs = doubted_pairs(result.lists)
    chosen = [*pairs[:11], next(each for each in pairs if each.caption == 0)]
    path = write_desk(tmp_path / "desk.html", result, chosen, len(pairs), PictureFolder(tmp_path))
    context = browser.new_context(accept_downloads=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    yield page, result.lists, said
    context.close()


def saved(page, tmp_path):
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "judgements.json"
    download.value.save_as(tmp_path / "judgements.json")
    return tmp_path / "judgements.json"


def test_two_keys_judge_and_the_saved_file_is_read(desk, tmp_path):
    page, lists, said = desk
    for key in ("y", "n", "Y", "ArrowUp", "u", "n", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#state").inner_text() == "Pair 4 of 12. 3 judged: 1 right, 2 not."
    judgements = read_judgements(saved(page, tmp_path), lists)
    assert [each.right for each in judgements] == [True, False, False]
    asked = page.locator(".card .query").all_inner_texts()
    assert [each.sentence for each in judgements] == asked[:3]
    assert said == []


def test_the_mouse_and_a_sentence_that_looks_like_a_script(desk, tmp_path):
    page, lists, said = desk
    page.locator(".card").nth(11).get_by_role("button", name="Yes").click()
    content = json.loads(saved(page, tmp_path).read_text())["judgements"]
    assert content[0]["sentence"] == lists.captions[0] and content[0]["right"] is True
    assert len(read_judgements(tmp_path / "judgements.json", lists)) == 1 and said == []


def test_judgements_outlive_a_reload(desk):
    page, _, _ = desk
    page.keyboard.press("y")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    assert "1 judged: 1 right" in page.locator("#state").inner_text()
    assert page.locator(".card.yes").count() == 1


def test_the_policy_forbids_what_is_not_in_the_page(desk):
    page, _, said = desk
    page.evaluate("""() => { const script = document.createElement("script");
        script.textContent = "window.got = 1"; document.body.append(script); }""")
    assert page.evaluate("() => window.got") is None
    assert any("Content Security Policy" in line for line in said)


def test_everyone_can_use_it(desk, axe):
    page, _, _ = desk
    page.evaluate(f"() => {{ {axe} }}")
    found = page.evaluate("() => axe.run()")
    assert [each["id"] for each in found["violations"]] == []
    assert page.evaluate(TOO_SMALL) == []
