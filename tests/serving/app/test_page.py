"""The page as the server writes it: how far re-ranking moved a hit, and weights in addresses."""

import html
import re
from dataclasses import replace

import pytest

from serving.app.page import MODULES, MOST_WEIGHT, STATIC, STEP, Asked


class Backwards:
    """Stands for a pair scorer that likes best what the index liked least."""

    def reordered(self, text, hits):
        moved = [replace(hit, before=place) for place, hit in enumerate(hits, start=1)]
        return [replace(hit, score=float(-place)) for place, hit in enumerate(reversed(moved))]


def test_each_hit_says_how_far_re_ranking_moved_it(photos, serve):
    client = serve(photos)
    plain = client.get("/v1/search", params={"q": "red", "k": 12}).json()["hits"]
    collection = client.app.state.service.collection
    collection.reranker, collection.rerank_k = Backwards(), 7
    hits = client.get("/v1/search", params={"q": "red", "k": 12, "rerank": True}).json()["hits"]
    assert [hit["id"] for hit in hits[:7]] == [hit["id"] for hit in reversed(plain[:7])]
    assert [hit["id"] for hit in hits[7:]] == [hit["id"] for hit in plain[7:]]
    page = html.unescape(client.get("/", params={"q": "red", "k": 12, "rerank": 1}).text)
    told = [re.search(r"(up|down) (\d+) by re-ranking", each) for each in page.split("<li data-hit")[1:]]
    expected = [6, 4, 2, 0, -2, -4, -6, 0, 0, 0, 0, 0]
    found = [0 if each is None else int(each[2]) * (1 if each[1] == "up" else -1) for each in told]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("q", 1.0),
        ("plus:0.25", 0.25),
        ("minus", -0.5),
        ("minus:2", -2.0),
        ("unlike:0.75", -0.75),
        ("plus:", 1.0),
        ("plus:nan", 1.0),
        ("plus:-1", 1.0),
        ("plus:1e9", 1.0),
        ("minus:0", -0.5),
        ("like:inf", 1.0),
    ],
)
def test_a_weight_stands_in_the_name_and_a_wrong_one_is_the_usual(name, weight):
    ((_, value, found),) = Asked(((name, "red"),)).terms()
    assert (value, found) == ("red", weight)


def test_the_addresses_of_a_chip_change_its_weight_alone(photos, serve):
    client = serve(photos)
    address = "/?q=red&minus:0.5=blue&like:4=red_6.png&k=5"
    chips = client.get(address).text.partition('class="chips"')[2].partition("</ul>")[0].split("<li ")[1:]
    links = [re.findall(r'href="([^"]+)"', html.unescape(chip)) for chip in chips]
    assert [len(each) for each in links] == [3, 3, 2], "the third cannot weigh more"
    nearly = html.unescape(client.get("/?q=red&minus:3.9=blue").text)
    assert "minus%3A4=blue" in nearly, "a step does not lead beyond the most"
    assert MOST_WEIGHT == 4 and STEP == 0.25
    less, more, without = links[1]
    for changed, expected in ((less, "0.25"), (more, "0.75"), (without, None)):
        page = client.get(changed).text
        assert page.count('class="weight"') == (3 if expected else 2)
        assert not expected or f"</span> {expected}</span>" in page
        assert page.count("<li data-hit") == 5 and ("blue" in changed) is (expected is not None)


def test_a_chip_shows_its_share_of_the_scores_on_average(photos, serve):
    client = serve(photos)
    terms = [{"text": "red"}, {"text": "blue", "weight": -0.5}]
    hits = client.post("/v1/search", json={"terms": terms, "k": 24}).json()["hits"]
    page = (
        html.unescape(client.get("/?q=red&minus=blue").text)
        .partition('class="chips"')[2]
        .partition("</ul>")[0]
    )
    shown = re.findall(r"on average:</span> ([+-]\d\.\d\d)", page)
    for place, text in enumerate(shown):
        mean = sum(hit["shares"][place]["share"] for hit in hits) / len(hits)
        assert float(text) == pytest.approx(mean, abs=0.0051)
    assert len(shown) == 2


def test_what_never_changes_is_kept_by_browsers_and_asked_for_at_once(photos, serve):
    client = serve(photos)
    page = client.get("/").text
    for name in MODULES:
        assert f'<link rel="modulepreload" href="{STATIC}/{name}">' in page, "no module waits for another"
    assert len(MODULES) > 3 and f'src="{STATIC}/app.js"' in page and f"{STATIC}/look.css" in page
    for name in (*MODULES, "style.css", "look.css"):
        assert "immutable" in client.get(f"{STATIC}/{name}").headers["cache-control"]
    assert client.get("/static/0123456789ab/app.js").status_code == 404, "that of another version is not ours"
    assert client.get("/").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "The model has never seen these words: zebra, gnu."), ("zh", "模型从未见过这些词：zebra, gnu")],
)
def test_words_that_the_model_never_saw_are_told_beside_examples(photos, serve, language, expected):
    page = serve(photos).get("/", params={"q": "zebra gnu", "lang": language}).text
    assert expected in page and 'class="examples"' in page


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(("language", "expected"), [("en", "There is nothing"), ("zh-CN", "此地址没有内容")])
def test_a_person_at_an_address_that_is_none_sees_a_page_in_the_look_of_the_others(
    photos, serve, language, expected
):
    answer = serve(photos).get("/nowhere", headers={"accept": BROWSER, "accept-language": language})
    assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/html")
    assert f"<h1>{expected}" in answer.text and f"{STATIC}/look.css" in answer.text
    assert '<a href="/">' in answer.text, "it leads to the search"


def test_programs_are_told_in_json_that_an_address_is_none(photos, serve):
    client = serve(photos)
    for path, accept in (("/nowhere", "*/*"), ("/nowhere", "application/json"), ("/v1/nowhere", BROWSER)):
        answer = client.get(path, headers={"accept": accept})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "http"
