"""Several indexes in one service: each is asked by its name, and all of them answer one query."""

import base64

import pytest

from config.errors import UserError
from serving.app.collection import Collection
from serving.app.metrics import Metrics
from serving.app.pictures import Thumbnails
from serving.app.service import make_app
from serving.app.settings import Settings, distinct_names, for_each
from serving.bundle.bundle import Bundle
from serving.index import build
from serving.index.finishing import Options
from serving.index.sources import open_source
from tests.bundle_files import COLOURS, write_pixel_bundle
from tests.serving.app.conftest import KEY, bearing
from tests.serving.app.test_api import ids, png


@pytest.fixture
def other(photos, tmp_path):
    """Return the index of the same pictures by another model."""
    bundle = write_pixel_bundle(tmp_path / "other_bundle", seed=1)
    source = open_source(tmp_path / "photos", tmp_path / "about.jsonl")
    options = Options(bundle_folder=str(bundle))
    build.build(Bundle.open(bundle), source, tmp_path / "other.index", options)
    return tmp_path / "other.index"


def test_each_index_answers_under_its_name_and_a_wrong_name_is_told(photos, other, serve):
    client = serve(photos, other)
    first, second = serve(photos), serve(other)
    query = {"terms": [{"text": "red"}, {"text": "blue", "weight": -0.3}], "k": 12}
    for name, alone in (("photos.index", first), ("other.index", second)):
        answer = client.post("/v1/search", json={**query, "index": name}).json()
        expected = alone.post("/v1/search", json=query).json()
        assert answer["index"] == name and answer["model"] == expected["model"]
        scores = [[(hit["id"], hit["score"]) for hit in each["hits"]] for each in (answer, expected)]
        assert scores[0] == scores[1]
        got = client.get("/v1/search", params={"q": "red", "k": 12, "index": name})
        assert ids(got) == ids(alone.get("/v1/search", params={"q": "red", "k": 12}))
    assert client.get("/v1/info", params={"index": "other.index"}).json()["indexes"] == [
        "photos.index",
        "other.index",
    ]
    wrong = client.get("/v1/search", params={"q": "red", "index": "othr.index"})
    assert wrong.status_code == 422 and "did you mean other.index?" in wrong.text


def test_one_query_is_compared_and_what_all_show_is_named(photos, other, serve):
    client = serve(photos, other)
    query = {"terms": [{"text": "red"}], "k": 5}
    answer = client.post("/v1/compare", json=query).json()
    pages = {}
    for name, each in answer["answers"].items():
        assert each["hits"] == client.post("/v1/search", json={**query, "index": name}).json()["hits"]
        pages[name] = [hit["id"] for hit in each["hits"]]
    assert list(pages) == ["photos.index", "other.index"]
    assert answer["shared"] == [one for one in pages["photos.index"] if one in pages["other.index"]]
    only = client.post("/v1/compare", json={**query, "indexes": ["other.index"]}).json()
    assert list(only["answers"]) == ["other.index"]
    assert client.post("/v1/compare", json={**query, "indexes": ["none"]}).status_code == 422


def test_what_one_index_lacks_does_not_keep_the_other_from_answering(photos, other, serve):
    client = serve(photos, other, write_key=KEY)
    picture = {"picture": base64.b64encode(png(COLOURS["red"])).decode()}
    put = client.put("/v1/items/new", params={"index": "other.index"}, json=picture, headers=bearing(KEY))
    assert put.status_code == 201 and client.get("/v1/items/new").status_code == 404
    found = client.get("/v1/items/new", params={"index": "other.index"}).json()
    assert client.get(found["thumbnail"]).headers["content-type"] == "image/jpeg"
    answers = client.post("/v1/compare", json={"terms": [{"id": "new"}], "k": 2}).json()["answers"]
    assert answers["photos.index"]["code"] == "unknown"
    assert answers["other.index"]["hits"][0]["caption"] == "red"
    page = client.get("/", params={"like": "new", "beside": "other.index"}).text
    assert "There is no such item." in page and 'data-index="other.index"' in page


def test_a_page_says_why_neither_of_two_indexes_answers(photos, other, serve):
    page = serve(photos, other).get("/", params={"q": "zebra", "beside": "other.index"}).text
    assert page.count('class="notice"') == 1 and "never seen these words: zebra" in page


def test_a_server_that_is_away_is_told_and_the_index_beside_it_is_served(features, serve, tmp_path):
    pytest.importorskip("milvus_lite")
    from pymilvus.exceptions import MilvusException

    from serving.index.milvus.copying import copy_to_milvus

    copy_to_milvus(features, str(tmp_path / "lite.db"), "kept", None)
    metrics, none = Metrics(), Thumbnails(None, None)
    far = Collection(f"{tmp_path}/lite.db/kept", metrics)
    app = make_app(Collection(features, metrics), none, Settings(), metrics, [(far, none)])
    from fastapi.testclient import TestClient

    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        query = {"terms": [{"text": "red dog"}], "k": 3}
        both = client.post("/v1/compare", json=query).json()
        assert len(both["shared"]) == 3

        def away(*arguments, **options):
            raise MilvusException(message="server unavailable")

        for method in ("search", "query", "get"):
            setattr(far._index._milvus._client, method, away)
        refused = client.post("/v1/search", json={**query, "index": "kept"})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "unavailable"
        assert refused.headers["retry-after"] and str(tmp_path) not in refused.text
        answers = client.post("/v1/compare", json=query).json()["answers"]
        assert answers["kept"]["code"] == "unavailable" and len(answers["features.index"]["hits"]) == 3
        assert client.get("/v1/search", params={"q": "red dog"}).status_code == 200
        assert client.get("/metrics").status_code == client.get("/ready").status_code == 200
        page = client.get("/", params={"q": "red dog", "beside": "kept"}).text
        assert "server unavailable" in page and page.count("<li data-hit") == 24


def test_terms_of_every_kind_are_explained_and_add_up(photos, serve):
    client = serve(photos)
    terms = [
        {"text": "red"},
        {"text": "blue", "weight": -0.5},
        {"id": "red_6.png", "weight": 0.5},
        {"picture": base64.b64encode(png(COLOURS["yellow"])).decode(), "weight": 0.25},
    ]
    hit = client.post("/v1/search", json={"terms": terms, "k": 12}).json()["hits"][3]
    answer = client.post("/v1/explain", json={"terms": terms, "id": hit["id"]}).json()
    assert answer["score"] == pytest.approx(hit["score"], abs=1e-5)
    for explained, shown in zip(answer["terms"], hit["shares"], strict=True):
        assert explained["term"] == shown["term"] and explained["weight"] == shown["weight"]
        assert explained["share"] == pytest.approx(shown["share"], abs=1e-5)
    assert [[each["word"] for each in term["words"]] for term in answer["terms"]] == [
        ["red"],
        ["blue"],
        [],
        [],
    ]
    without = [terms[0], *terms[2:]]
    rest = client.post("/v1/explain", json={"terms": without, "id": hit["id"]}).json()["score"]
    assert answer["terms"][1]["words"][0]["share"] == pytest.approx(answer["score"] - rest, abs=1e-5)


def test_a_word_of_a_sum_counts_what_the_whole_score_loses_without_it(features, serve):
    client = serve(features)
    terms = [{"text": "a red dog"}, {"text": "old car", "weight": -0.5}]
    answer = client.post("/v1/explain", json={"terms": terms, "id": "5"}).json()
    for place, words in ((0, ["a", "red", "dog"]), (1, ["old", "car"])):
        for number, word in enumerate(answer["terms"][place]["words"]):
            left = [dict(term) for term in terms]
            left[place]["text"] = " ".join(words[:number] + words[number + 1 :])
            rest = client.post("/v1/explain", json={"terms": left, "id": "5"}).json()["score"]
            assert word["word"] == words[number]
            assert word["share"] == pytest.approx(answer["score"] - rest, abs=1e-5)


@pytest.mark.parametrize(
    "asked", [{"id": "5"}, {"id": "5", "text": "red", "terms": [{"text": "red"}]}, {"id": "5", "terms": []}]
)
def test_an_explanation_needs_either_a_sentence_or_terms(features, serve, asked):
    assert serve(features).post("/v1/explain", json=asked).status_code == 422


def test_names_of_indexes_are_as_long_as_tells_them_apart():
    assert distinct_names(["out/a.index", "out/b.index/"]) == ["a.index", "b.index"]
    assert distinct_names(["a/index", "b/index"]) == ["a/index", "b/index"]
    with pytest.raises(UserError, match="one twice"):
        distinct_names(["out/a", "out/a"])


def test_options_count_for_all_indexes_or_for_each():
    assert for_each("--pictures", [], 2) == [None, None]
    assert for_each("--pictures", ["x"], 2) == ["x", "x"]
    assert for_each("--pictures", ["x", "y"], 2) == ["x", "y"]
    with pytest.raises(UserError, match="--pictures: expected one, or 3"):
        for_each("--pictures", ["x", "y"], 3)
