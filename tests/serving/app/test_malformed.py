"""A thousand damaged uploads: each is refused in JSON, none is an error inside, and no file is written."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from serving.app.page import STATIC
from tests.serving.app.conftest import KEY, bearing

UPLOADS = 1000


def valid_files() -> list[bytes]:
    """Return a small picture in each of several formats, one with many frames."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    picture, files = Image.fromarray(pixels), []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        out = io.BytesIO()
        picture.save(out, kind)
        files.append(out.getvalue())
    out = io.BytesIO()
    picture.save(out, "GIF", save_all=True, append_images=[picture.rotate(90 * n) for n in range(30)])
    return [*files, out.getvalue()]


def damaged(files: list[bytes], number: int) -> bytes:
    """Return the upload of a number: cut, changed, repeated, of the wrong type, or of a huge stated size."""
    random = np.random.default_rng(number)
    data = bytearray(files[number % len(files)])
    kind = number // len(files) % 6
    if kind == 0:
        return bytes(data[: random.integers(0, len(data))])
    if kind == 1:
        for place in random.integers(0, min(len(data), 200), 8):
            data[place] = random.integers(0, 256)
    elif kind == 2:
        return random.bytes(int(random.integers(0, 4000)))
    elif kind == 3:
        start = int(random.integers(0, len(data)))
        data[start : start + 8] = b"\xff" * 8
    elif kind == 4:
        return json.dumps({"terms": [{"text": "x" * int(random.integers(0, 100))}]}).encode()
    else:
        data = data[: len(data) // 2] * 3
    return bytes(data)


@pytest.fixture
def client(photos, serve):
    return serve(photos, raised=False, write_key=KEY)


def test_damaged_uploads_are_refused_and_write_nothing(photos, client):
    files = valid_files()
    for number in range(UPLOADS):
        data = damaged(files, number)
        if number % 2:
            answer = client.post("/v1/search/picture", content=data)
        else:
            term = {"picture": base64.b64encode(data).decode() if number % 4 else data[:50].hex() + "?"}
            answer = client.post("/v1/search", json={"terms": [term]})
        assert answer.status_code in (200, 422), (number, answer.text)
        if answer.status_code == 422:
            assert set(answer.json()["error"]) == {"code", "message"}
    content = {"picture": base64.b64encode(files[0][:100]).decode()}
    assert client.put("/v1/items/a", json=content, headers=bearing(KEY)).status_code == 422
    assert not (photos / "pictures").exists()
    assert client.get("/v1/search", params={"q": "red"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"terms": []}',
        b'{"terms": [{}]}',
        b'{"terms": [{"text": "red", "id": "x"}]}',
        b'{"terms": [{"text": "red"}], "k": 0}',
        b'{"terms": [{"text": "red"}], "k": 1e99}',
        b'{"terms": [{"text": "red"}], "offset": -1}',
        b'{"terms": [{"text": "red", "weight": NaN}]}',
        b'{"terms": [{"text": "red", "weight": 1e999}]}',
        b'{"terms": [{"text": "red", "weight": 0}]}',
        b'{"terms": [{"text": "\\ud800"}]}',
        b'{"terms": [{"id": "\\u0000"}]}',
        b'{"terms": [{"features": []}]}',
        b'{"terms": [{"features": [[]]}]}',
        b'{"terms": [{"features": [1e300]}]}',
        b'{"terms": [{"text": "red"}], "where": "((((("}',
        b'{"terms": [{"text": "red"}], "unknown": 1}',
        b'{"terms": ' + b"[" * 5000,
        b'{"terms": [' + b'{"text": "red"},' * 20 + b'{"text": "red"}]}',
    ],
)
def test_wrong_bodies_are_refused_in_one_sentence(client, body):
    answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    message = answer.json()["error"]["message"]
    assert message and "\n" not in message and "Traceback" not in message


@pytest.mark.parametrize("lists", [100, 900])
def test_no_item_is_taken_that_no_answer_could_show(client, lists):
    identity = client.post("/v1/search", json={"terms": [{"text": "red"}]}).json()["hits"][0]["id"]
    body = '{"caption": "red", "metadata": {"x": %s}}' % ("[" * lists + "]" * lists)
    headers = {"content-type": "application/json", **bearing(KEY)}
    refused = client.patch(f"/v1/items/{identity}", content=body, headers=headers)
    assert refused.status_code == 422 and identity in refused.json()["error"]["message"]
    assert client.post("/v1/search", json={"terms": [{"text": "red"}]}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/search",
        "/v1/search?q=",
        "/v1/search?q=red&k=x",
        "/v1/search?q=red&k=201",
        "/v1/search?q=red&offset=1000",
        "/v1/search?q=%00",
        "/v1/search?q=%ff",
        "/v1/search?q=red&where=%00",
        "/v1/items/",
        "/v1/items/none",
        "/v1/thumbnails/",
        "/v1/thumbnails/red_0.png?size=7",
        "/v1/thumbnails/red_0.png?size=99999999999",
        f"{STATIC}/none.js",
        "/none",
    ],
)
def test_wrong_addresses_are_refused(client, path):
    assert client.get(path).status_code in (404, 422), path


@pytest.mark.parametrize(
    "path",
    [
        "/?q=%00",
        "/?q=%ff",
        "/?k=9999&q=red",
        "/?offset=99999&q=red",
        "/?like=none",
        "/?where=%28&q=red",
        "/?picture=a",
    ],
)
def test_the_page_says_what_is_wrong_with_an_address(client, path):
    answer = client.get(path)
    assert answer.status_code == 200 and 'class="notice"' in answer.text
