"""The API: what it finds, changes, refuses and tells."""

import base64
import io
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from serving.index.card import read_card, write_card
from tests.bundle_files import COLOURS, features_of, sentences_of
from tests.serving.app.conftest import KEY, bearing


def png(colour, size=(50, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_a_sentence_finds_pictures_with_rank_score_caption_and_thumbnail(photos, serve):
    answer = serve(photos).get("/v1/search", params={"q": "red", "k": 3}).json()
    first = answer["hits"][0]
    assert first["id"] == "red_0.png" and first["rank"] == 1 and first["caption"] == "red"
    assert first["score"] == pytest.approx(1, abs=1e-3) and first["metadata"]["number"] == 0
    assert answer["items"] == 12 and answer["next_offset"] == 3 and answer["milliseconds"]["total"] > 0


def test_pages_follow_each_other_without_a_gap(photos, serve):
    client, found, offset = serve(photos), [], 0
    whole = ids(client.get("/v1/search", params={"q": "blue", "k": 12}))
    while offset is not None:
        answer = client.get("/v1/search", params={"q": "blue", "k": 5, "offset": offset})
        found += ids(answer)
        offset = answer.json()["next_offset"]
    assert found == whole and len(found) == 12


def test_a_picture_an_id_and_a_sum_find_the_same_colours(photos, serve):
    client = serve(photos)
    picture = png(COLOURS["green"])
    raw = client.post("/v1/search/picture", params={"k": 2}, content=picture)
    encoded = {"terms": [{"picture": base64.b64encode(picture).decode()}], "k": 2}
    assert ids(raw) == ids(client.post("/v1/search", json=encoded))
    assert {name.split("_")[0] for name in ids(raw)} <= {"green_1.png", "green", "a trip/green é 7.png"}
    like = ids(client.post("/v1/search", json={"terms": [{"id": "red_0.png"}], "k": 1}))
    assert like == ["red_6.png"]
    terms = [{"text": "yellow"}, {"text": "red", "weight": -0.5}]
    hits = client.post("/v1/search", json={"terms": terms, "k": 2}).json()["hits"]
    for hit in hits:
        assert [share["term"] for share in hit["shares"]] == ["yellow", "red"]
        assert sum(share["share"] for share in hit["shares"]) == pytest.approx(hit["score"], abs=1e-5)


def test_conditions_choose_and_a_wrong_one_is_told(photos, serve):
    client = serve(photos)
    found = client.get("/v1/search", params={"q": "red", "where": 'number >= 6 and tags contains "b"'})
    assert set(ids(found)) == {"blue_8.png", "black_10.png"}
    wrong = client.get("/v1/search", params={"q": "red", "where": "nubmer > 3"})
    assert wrong.status_code == 422 and "number" in wrong.json()["error"]["message"]


def test_where_nothing_fits_the_answer_says_why(features, serve):
    """The cut-off is put between a query that is answered well, and one that has no good answer."""
    good, poor = sentences_of(300)[7], "a"
    client = serve(features)
    best, other = (client.get("/v1/search", params={"q": text}).json()["hits"][0] for text in (good, poor))
    assert best["deviations"] > other["deviations"]
    card = read_card(features)
    middle = (best["deviations"] + other["deviations"]) / 2
    write_card(features, replace(card, cutoff=card.cutoff | {"deviations": middle, "turned_away_rate": 0.1}))
    client = serve(features)
    right = client.get("/v1/search", params={"q": good}).json()
    assert right["fits"] and right["reason"] is None and right["hits"][0]["fits"]
    assert right["hits"][0]["deviations"] > right["hits"][1]["deviations"]
    wrong = client.get("/v1/search", params={"q": poor}).json()
    assert wrong["fits"] is False and "standard deviations" in wrong["reason"]
    assert wrong["hits"] and not any(hit["fits"] for hit in wrong["hits"])


def test_a_cut_off_that_turns_right_answers_away_is_not_applied(features, serve):
    card = read_card(features)
    write_card(features, replace(card, cutoff=card.cutoff | {"deviations": 99.0, "turned_away_rate": 0.9}))
    answer = serve(features).get("/v1/search", params={"q": sentences_of(300)[7]}).json()
    assert answer["fits"] is None and answer["reason"] is None and answer["hits"][0]["fits"] is None


def test_features_are_a_query_and_pictures_are_refused_where_the_model_reads_features(features, serve):
    client = serve(features)
    sentence = sentences_of(300)[11]
    vector = features_of([sentence])[0].tolist()
    assert ids(client.post("/v1/search", json={"terms": [{"features": vector}], "k": 1})) == ["11"]
    refused = client.post("/v1/search/picture", content=png("red"))
    assert refused.status_code == 422 and "features" in refused.json()["error"]["message"]
    uneven = client.post("/v1/search", json={"terms": [{"features": [[1.0], [1.0, 2.0]]}]})
    assert uneven.status_code == 422


def test_words_are_explained_by_what_the_score_loses_without_them(features, serve):
    sentence = sentences_of(300)[5]
    answer = serve(features).post("/v1/explain", json={"text": sentence, "id": "5"}).json()
    assert [each["word"] for each in answer["words"]] == sentence.split()
    assert answer["score"] == pytest.approx(1, abs=1e-4)
    assert all(each["share"] > 0 for each in answer["words"])  # each word is in the picture


def test_unknown_words_are_named_and_a_sentence_of_them_refused(photos, serve):
    client = serve(photos)
    assert client.get("/v1/search", params={"q": "red zebra"}).json()["unknown_words"] == ["zebra"]
    refused = client.get("/v1/search", params={"q": "zebra"})
    assert refused.status_code == 422 and "vocabulary" in refused.json()["error"]["message"]


def test_an_item_is_added_updated_described_and_deleted(photos, serve):
    client = serve(photos, write_key=KEY)
    second = serve(photos)  # another service of the same index
    content = {"picture": base64.b64encode(png((250, 215, 40))).decode(), "caption": "new yellow"}
    where, key = "/v1/items/up/new%20one", bearing(KEY)
    assert client.put(where, json=content, headers=key).status_code == 201
    for each in (client, second):
        assert "up/new one" in ids(each.get("/v1/search", params={"q": "yellow", "k": 3}))
    thumbnail = client.get("/v1/thumbnails/up%2Fnew%20one")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (50, 30)
    content["picture"] = base64.b64encode(png("black")).decode()
    assert client.put(where, json=content, headers=key).status_code == 200
    assert "up/new one" in ids(second.get("/v1/search", params={"q": "black", "k": 3}))
    assert client.patch(where, json={"caption": "night"}, headers=key).status_code == 200
    assert second.get(where).json()["caption"] == "night"
    assert client.delete(where, headers=key).status_code == 200
    assert second.get(where).status_code == client.get("/v1/thumbnails/up%2Fnew%20one").status_code == 404
    assert client.delete(where, headers=key).status_code == 404


def test_writing_waits_for_another_writer_with_503(photos, serve):
    from serving.index.index import writer_lock

    client = serve(photos, write_key=KEY)
    with writer_lock(photos):
        busy = client.delete("/v1/items/red_0.png", headers=bearing(KEY))
    assert busy.status_code == 503 and busy.headers["Retry-After"]
    assert client.delete("/v1/items/red_0.png", headers=bearing(KEY)).status_code == 200


def test_a_model_that_has_gone_is_no_fault_of_the_client(photos, serve):
    client = serve(photos)
    card = read_card(photos)
    shutil.copytree(photos / card.data, photos / "0002")
    write_card(photos, replace(card, data="0002", bundle="0" * 64, bundle_folder="/none"))
    answer = client.get("/v1/search", params={"q": "red"})
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "busy"


def test_the_description_names_every_route_and_the_service_its_state(photos, serve):
    client = serve(photos)
    paths = client.get("/v1/openapi.json").json()["paths"]
    assert {"/v1/search", "/v1/search/picture", "/v1/items/{identity}", "/health", "/ready"} <= set(paths)
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").status_code == 200
    assert client.get("/v1/info").json()["image_reads"] == "pixels"


def test_metrics_count_requests_steps_and_batches(photos, serve):
    client = serve(photos)
    for _ in range(3):
        client.get("/v1/search", params={"q": "red"})
    text = client.get("/metrics").text
    assert 'retrieval_requests_total{code="200",route="/v1/search"} 3.0' in text
    assert "retrieval_batch_size_count 3.0" in text and "retrieval_items 12.0" in text
    for step in ("queue", "encode", "search"):
        assert f'retrieval_step_seconds_count{{step="{step}"}}' in text
