"""What docs/security.md promises, a test each."""

import asyncio
import base64
import io
import logging

import numpy as np
import pytest
from PIL import Image
from uvicorn import Config
from uvicorn.server import ServerState

from config.errors import UserError
from serving.app.guard import Guard, Protocol, written_refusal
from serving.app.metrics import Metrics
from serving.app.page import STATIC
from serving.app.settings import Settings, read_key_file
from tests.bundle_files import COLOURS
from tests.serving.app.conftest import KEY, READ_KEY, bearing


def jpeg(**options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), COLOURS["red"]).save(out, "JPEG", **options)
    return out.getvalue()


def test_others_are_not_served_without_a_key():
    Settings().check()
    Settings(host="::1").check()
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UserError, match="--key_file"):
            Settings(host=host).check()
        Settings(host=host, read_key=READ_KEY).check()


def test_short_keys_are_refused(tmp_path):
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(UserError, match="at least 16"):
        read_key_file(tmp_path / "key")
    (tmp_path / "key").write_text(KEY + "\n")
    assert read_key_file(tmp_path / "key") == KEY


def test_nobody_writes_without_the_key_for_writing(photos, serve):
    where = "/v1/items/red_0.png"
    assert (
        serve(photos).delete(where, headers=bearing(KEY)).status_code == 403
    )  # no key was given to the service
    client = serve(photos, write_key=KEY, read_key=READ_KEY)
    for headers in ({}, bearing(READ_KEY), bearing(KEY[:-1]), bearing(""), {"Authorization": "Bearer é"}):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        assert client.delete(where, headers=encoded).status_code == 401
        assert client.put(where, json={}, headers=encoded).status_code == 401
        assert client.patch(where, json={}, headers=encoded).status_code == 401
    assert client.get(where, headers=bearing(KEY)).status_code == 200


def test_readers_need_a_key_where_others_are_served(photos, serve):
    client = serve(photos, host="0.0.0.0", read_key=READ_KEY)
    for path in ("/", "/results", "/v1/search?q=red", "/v1/info", "/metrics", "/v1/thumbnails/red_0.png"):
        refused = client.get(path)
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
        assert client.get(path, headers=bearing(READ_KEY)).status_code == 200
        assert client.get(path, auth=("anyone", READ_KEY)).status_code == 200  # as browsers ask for it
    assert client.get("/health").status_code == 200


def test_keys_are_compared_in_constant_time(photos, serve, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "serving.app.guard.hmac.compare_digest", lambda one, other: compared.append(other) or one == other
    )
    client = serve(photos, write_key=KEY, read_key=READ_KEY)
    assert client.get("/v1/info", headers=bearing(READ_KEY)).status_code == 200
    assert compared == [READ_KEY.encode(), KEY.encode()]  # both, whichever was right


def test_names_that_are_not_the_service_s_are_refused(photos, serve):
    """So that a page whose name comes to lead to this machine (DNS rebinding) reads nothing."""
    client = serve(photos)
    assert client.get("/v1/info", headers={"host": "evil.example:8000"}).status_code == 421
    for host in ("localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        assert client.get("/v1/info", headers={"host": host}).status_code == 200
    allowed = serve(photos, hosts=("photos.example",))
    assert allowed.get("/v1/info", headers={"host": "photos.example"}).status_code == 200


def test_pages_of_other_sites_change_nothing(photos, serve):
    client = serve(photos, write_key=KEY)
    headers = {**bearing(KEY), "sec-fetch-site": "cross-site"}
    assert client.delete("/v1/items/red_0.png", headers=headers).status_code == 403
    answer = client.get("/v1/info", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers_and_no_cookie(photos, serve):
    client = serve(photos, raised=False)
    for path in (
        "/",
        "/docs",
        f"{STATIC}/app.js",
        "/v1/search?q=red",
        "/none",
        "/v1/search",
        "/v1/thumbnails/red_0.png",
    ):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer" and "set-cookie" not in headers
        assert headers["cache-control"]


def test_the_page_loads_nothing_from_elsewhere(photos, serve):
    client = serve(photos)
    for path in ("/?q=red", "/docs", f"{STATIC}/style.css", f"{STATIC}/app.js", f"{STATIC}/dialog.js"):
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text


def test_what_is_shown_is_escaped(photos, serve):
    page = serve(photos).get("/", params={"q": '"><script>alert(1)</script>', "where": "'\"<img src=x>"})
    assert "<script>alert" not in page.text and "<img src=x>" not in page.text


def test_an_id_is_never_a_path(photos, serve):
    (photos.parent / "secret.png").write_bytes(jpeg())
    client = serve(photos, write_key=KEY)
    for identity in (
        "..%2Fsecret.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
    ):
        assert client.get(f"/v1/thumbnails/{identity}").status_code == 404
    content = {"picture": base64.b64encode(jpeg()).decode()}
    before = sorted(photos.parent.rglob("*"))
    assert (
        client.put("/v1/items/..%2F..%2Fescaped.png", json=content, headers=bearing(KEY)).status_code == 201
    )
    new = [path for path in sorted(photos.parent.rglob("*")) if path not in before]
    assert all(photos in path.parents for path in new)
    assert client.get("/v1/thumbnails/..%2F..%2Fescaped.png").status_code == 200
    assert client.get(f"{STATIC}/..%2Fpage.py").status_code == 404


def test_pictures_lose_what_the_camera_wrote(photos, serve):
    exif = Image.Exif()
    exif[0x0110] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    data = jpeg(exif=exif, comment=b"SecretComment")
    assert b"SecretCamera" in data and b"SecretComment" in data
    (photos.parent / "photos" / "red_0.png").write_bytes(data)
    client = serve(photos, write_key=KEY)
    content = {"picture": base64.b64encode(data).decode()}
    assert client.put("/v1/items/mine.jpg", json=content, headers=bearing(KEY)).status_code == 201
    for identity in ("red_0.png", "mine.jpg"):
        small = client.get(f"/v1/thumbnails/{identity}").content
        assert b"Secret" not in small and not Image.open(io.BytesIO(small)).getexif()
    (kept,) = (photos / "pictures").iterdir()
    assert b"Secret" not in kept.read_bytes()


def test_uploads_are_bounded_in_bytes_and_pixels(photos, serve):
    client = serve(photos, upload_bytes=10_000, upload_pixels=5_000)
    large = client.post("/v1/search/picture", content=bytes(200_000))
    assert large.status_code == 413 and large.json()["error"]["code"] == "too_large"

    def pieces():  # without a Content-Length
        for _ in range(20):
            yield bytes(10_000)

    assert client.post("/v1/search/picture", content=pieces()).status_code == 413
    as_json = client.post("/v1/search", content=bytes(200_000), headers={"content-type": "application/json"})
    assert as_json.status_code == 413 and as_json.headers["connection"] == "close"
    out = io.BytesIO()
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(out, "PNG")
    many = client.post("/v1/search/picture", content=out.getvalue())
    assert many.status_code == 422 and "100 x 100" in many.json()["error"]["message"]


def test_a_failure_inside_shows_no_trace_and_is_logged(photos, serve, monkeypatch, caplog):
    client = serve(photos, raised=False)

    def broken(*_):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(client.app.state.service.collection, "described", broken)
    with caplog.at_level(logging.INFO, "retrieval"):
        answer = client.get("/v1/items/red_0.png")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert "a secret of the inside" in caplog.text
    request = answer.json()["error"]["message"].rpartition(" ")[2]
    assert request in caplog.text


def test_messages_do_not_tell_where_files_lie(photos, serve):
    client = serve(photos, raised=False)
    for query in ({"terms": [{"features": [1.0]}]}, {"terms": [{"text": "zebra"}]}):
        answer = client.post("/v1/search", json=query)
        assert answer.status_code == 422 and str(photos.parent) not in answer.text


def test_the_log_has_queries_only_if_asked(photos, serve, caplog):
    with caplog.at_level(logging.INFO, "retrieval"):
        serve(photos).get("/v1/search", params={"q": "yellow"})
        own = [record.getMessage() for record in caplog.records if record.name == "retrieval"]
        assert own and not any("yellow" in line for line in own)
        serve(photos, log_queries=True).get("/v1/search", params={"q": "yellow"})
    assert any("yellow" in record.getMessage() for record in caplog.records if record.name == "retrieval")


def test_a_slow_client_is_cut_off():
    """A request that does not come is refused after its time, and the app behind never sees it whole."""

    async def never():
        await asyncio.sleep(60)

    async def app(scope, receive, send):
        await receive()
        raise AssertionError("the request never came")

    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(app, Settings(upload_seconds=0.01), Metrics())
    scope = {"type": "http", "method": "POST", "path": "/v1/search", "query_string": b""}
    asyncio.run(guard(scope | {"headers": [(b"host", b"localhost")]}, never, send))
    assert sent[0]["status"] == 408


class Wire(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = [], False

    def write(self, data):
        self.written.append(data)

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def says_ok(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def connected(app, **options) -> tuple[Protocol, Wire]:
    connection = Protocol(
        config=Config(app, lifespan="off"), server_state=ServerState(), app_state={}, **options
    )
    connection.connection_made(wire := Wire())
    return connection, wire


def test_a_connection_on_which_no_request_comes_is_ended(monkeypatch):
    """The timer runs before a request and between two, and not while one is answered."""
    monkeypatch.setattr("serving.app.guard._WAIT_SECONDS", 0.05)
    slow = 0.2  # seconds that an answer takes: longer than the timer, which does not run meanwhile

    async def closed_after(requests: int, rest: bytes = b"") -> bool:
        answered = asyncio.Event()

        async def app(scope, receive, send):
            await asyncio.sleep(slow)
            await says_ok(scope, receive, send)
            answered.set()

        connection, wire = connected(app)
        for _ in range(requests):
            answered.clear()
            connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await answered.wait()
        assert b"".join(wire.written).count(b"200 OK") == requests and not wire.closed
        if rest:  # h11 takes no bytes for an end, which asyncio tells otherwise
            connection.data_received(rest)
        while not wire.closed:  # without the timer it would never be
            await asyncio.sleep(0.01)
        return wire.closed

    def ended(*arguments: object) -> bool:
        return asyncio.run(asyncio.wait_for(closed_after(*arguments), 30))

    assert ended(0), "nothing came"
    assert ended(0, b"GET / HTTP/1.1\r\nX: "), "half a head"
    assert ended(2, b"GET /"), "half a head after two answers, each later than that"


def test_a_plain_search_is_refused_unread_while_the_queue_is_full_and_no_other_request_is():
    """The answer is the one that `Guard` would give, and the connection goes on."""
    whole = [None, written_refusal(), written_refusal(), None]
    search = b"GET /v1/search?q=a%20dog HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
    others = [
        search.replace(b"GET", b"POST"),
        search.replace(b"search?", b"searches?"),
        search.replace(b"Accept: */*", b"Content-Length: 0"),
        search.replace(b"Accept: */*", b"connection: close"),
        search + search,
        search[:-2],
    ]

    async def written(*pieces: bytes, refusal=written_refusal) -> list[bytes]:
        connection, wire = connected(says_ok, refusal=refusal)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0.01)
        return wire.written

    statuses = [
        answer[9:12] for answer in asyncio.run(written(*[search] * 4, refusal=iter(whole).__next__)) if answer
    ]
    assert [status for status in statuses if status.isdigit()] == [b"200", b"429", b"429", b"200"]
    kept = search.replace(b"Accept: */*", b"Connection: keep-alive")
    assert asyncio.run(written(kept)) == [written_refusal()]
    for other in others:
        assert not any(b" 429 " in answer for answer in asyncio.run(written(other))), other

    async def app(scope, receive, send):
        raise AssertionError("it is refused before")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/search", "query_string": b""}
    asyncio.run(
        Guard(app, Settings(), Metrics(), lambda: True)(
            scope | {"headers": [(b"host", b"localhost")]}, None, send
        )
    )
    head, _, body = written_refusal().partition(b"\r\n\r\n")
    assert body == sent[1]["body"]
    assert sorted(head.split(b"\r\n")[1:]) == sorted(b": ".join(header) for header in sent[0]["headers"])


def test_head_is_answered_as_get_is(photos, serve):
    client = serve(photos)
    for path in ("/", "/ready", "/v1/info", "/v1/thumbnails/red_0.png"):
        head, whole = client.head(path), client.get(path)
        assert head.status_code == whole.status_code == 200
        assert head.headers["content-type"] == whole.headers["content-type"]


def test_an_index_that_has_gone_is_no_fault_of_the_client_s(photos, serve):
    client = serve(photos)
    assert client.get("/v1/search", params={"q": "red"}).status_code == 200
    photos.rename(photos.with_name("elsewhere"))
    gone = client.get("/v1/search", params={"q": "red"})
    assert gone.status_code == 503 and gone.json()["error"]["code"] == "unavailable"
    assert client.get("/metrics").status_code == 200
    photos.with_name("elsewhere").rename(photos)
    assert client.get("/v1/search", params={"q": "red"}).status_code == 200


def test_a_search_is_refused_before_it_is_read_while_the_queue_is_full():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def asked(path: str, full: bool) -> dict:
        sent = []

        async def send(message):
            sent.append(message)

        guard = Guard(app, Settings(), Metrics(), lambda: full)
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        asyncio.run(guard(scope, None, send))
        return sent[0]

    refused = asked("/v1/search", True)
    assert refused["status"] == 429 and (b"retry-after", b"1") in refused["headers"]
    assert asked("/v1/search", False)["status"] == asked("/health", True)["status"] == 200
