"""What stands before every route: names, keys, sizes, times and headers, as ASGI middleware."""

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import NoReturn

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.app.metrics import Metrics
from serving.app.settings import Settings

LOG = logging.getLogger("retrieval")
FULL = "too many queries wait: try again later"
OPEN_PATHS = ("/health", "/ready")
_READING = ("GET", "HEAD", "OPTIONS")
_ASKING = (
    "/v1/search",
    "/v1/search/picture",
    "/v1/compare",
    "/v1/explain",
    "/results",
)  # POST that change nothing
_USUAL = {
    "content-security-policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in _USUAL.items()]
# A search in one piece, without a body, on a connection that stays open.
_SEARCH = re.compile(
    rb"GET /v1/search\?[!-~]* HTTP/1\.1\r\n"
    rb"(?:(?!connection(?!: ?keep-alive\r)|content-length|transfer-encoding|upgrade|expect)"
    rb"[!#-'*+.\w^`|~-]+:[ -~\t]*\r\n)+\r\n",
    re.IGNORECASE,
)
_WAIT_SECONDS = 20  # for a head, or for the rest of a body that is not read any more


class Protocol(H11Protocol):
    """HTTP of one connection, which ends where a client lets it wait for a request for too long.

    uvicorn's own timer stops at the first byte of a head. A plain search that comes while `refusal()` returns
    an answer gets that one unread: parsing, and the way through the application, would take ten times as long
    from those that are answered.
    """

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *, refusal: Callable[[], bytes | None] = lambda: None, **uvicorns: object) -> None:
        super().__init__(**uvicorns)
        self._refusal = refusal

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read what came, or refuse it unread."""
        answer = self._refusal() if self._waits() and _SEARCH.fullmatch(data) else None
        if answer:
            self._unset_keepalive_if_required()
            self._stop()
            self.transport.write(answer)
        else:
            super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(error)
        self._stop()

    def _watch(self) -> None:
        """Start the timer, or stop it while a request is answered, which `Guard` watches."""
        if self._answers():
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_WAIT_SECONDS, self.transport.close)

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _waits(self) -> bool:
        """Tell whether the next byte begins a request."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0] and not self._answers()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Guard:
    """ASGI middleware around `app`: refuses what is not allowed, and adds the headers to every answer.

    While `is_full()`, searches are refused here, since reading one that cannot be answered takes time from
    those that can.
    """

    def __init__(
        self, app, settings: Settings, metrics: Metrics, is_full: Callable[[], bool] = lambda: False
    ) -> None:
        self._app, self._settings, self._metrics, self._is_full = app, settings, metrics, is_full
        own = {"localhost", "127.0.0.1", "[::1]"} if settings.loopback else set()
        named = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = {*own, *settings.hosts} | ({named} - {"0.0.0.0", "[::]"})
        self._any_host = not settings.loopback and not settings.hosts

    async def __call__(self, scope, receive, send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, request = time.perf_counter(), 500, secrets.token_hex(4)
        started = False

        async def answer(message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                there = {name for name, _ in message["headers"]}
                added = [header for header in _HEADERS if header[0] not in there]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        bounded = _Bounded(scope, receive, self._settings)

        async def answer_of_app(message) -> None:
            if bounded.refusal is None or started:  # else it is what a framework says of a body that was cut
                await answer(message)

        try:
            refusal = self._refusal(scope)
            if not refusal:
                # uvicorn leaves the body of an answer to HEAD out.
                asked = scope | {"method": "GET"} if scope["method"] == "HEAD" else scope
                with contextlib.suppress(_CutOffError):
                    await self._app(asked, bounded, answer_of_app)
                refusal = None if started else bounded.refusal
            if refusal:
                await refuse(answer, *refusal)
        except Exception:
            LOG.exception("request %s failed", request)
            if not started:
                await refuse(
                    answer, 500, "internal", f"an error inside the service; its log has it as {request}"
                )
        finally:
            route = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in _ASKING else "none")
            self._metrics.requests.labels(route, str(status)).inc()
            took = (time.perf_counter() - began) * 1000
            asked = scope["query_string"].decode("latin-1") if self._settings.log_queries else ""
            LOG.info("%s %s %s %d %.1f ms %s", request, scope["method"], route, status, took, asked)

    def _refusal(self, scope) -> tuple | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._known_host(headers.get("host", "")):
            return 421, "unknown_host", "this service does not go by that name; --allow_host adds one"
        writing = scope["method"] not in _READING and scope["path"] not in _ASKING
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in _READING:
            return 403, "cross_site", "pages of other sites may not call this service"
        if scope["path"] in OPEN_PATHS:
            return None
        settings, given = self._settings, _given_key(headers.get("authorization", ""))
        if writing and settings.write_key is None:
            return 403, "read_only", "this service was started without a key for writing"
        keys = [settings.write_key] if writing else [settings.read_key, settings.write_key]
        asked = writing or settings.read_key is not None or not settings.loopback
        if asked and not _is_one_of(given, keys):
            return 401, "key", "expected a key, as `Authorization: Bearer KEY` or as a password"
        if scope["path"] == "/v1/search" and self._is_full():
            self._metrics.refused.labels("full").inc()
            return 429, "full", FULL
        return None

    def _known_host(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return self._any_host or name.lower() in self._hosts


def _given_key(header: str) -> str:
    """Return the key in `Bearer KEY`, or the password of `Basic`, with which browsers ask for one."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return ""


def _is_one_of(given: str, keys: list[str | None]) -> bool:
    """Compare with every key, each in constant time."""
    same = [hmac.compare_digest(given.encode(), key.encode()) for key in keys if key is not None]
    return any(same)


class _CutOffError(Exception):
    pass


class _Bounded:
    """Receives a body that has at most so many bytes, within so many seconds.

    Of one that is larger or slower, `refusal` says so by status, code and message.
    """

    def __init__(self, scope, receive, settings: Settings) -> None:
        self._receive, self._most = receive, settings.upload_bytes * 4 // 3 + (1 << 16)  # base64 in JSON
        self._read, self._ends, self._seconds = 0, None, settings.upload_seconds
        length = dict(scope["headers"]).get(b"content-length", b"0")
        self._stated = int(length) if length.isdigit() and len(length) < 16 else 0
        self._whole, self.refusal = False, None

    async def __call__(self):
        if self._whole:  # what follows is that the client leaves, which may take any time
            return await self._receive()
        if self._stated > self._most:
            self._refuse(413, "too_large", f"expected at most {self._most:,} bytes")
        now = time.monotonic()
        self._ends = self._ends or now + self._seconds
        try:
            message = await asyncio.wait_for(self._receive(), max(0.01, self._ends - now))
        except asyncio.TimeoutError:
            self._refuse(408, "too_slow", f"expected the whole request within {self._seconds:g} seconds")
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            self._refuse(413, "too_large", f"expected at most {self._most:,} bytes")
        self._whole = not message.get("more_body", False)
        return message

    def _refuse(self, *refusal: object) -> NoReturn:
        self.refusal = refusal
        raise _CutOffError


def written_refusal() -> bytes:
    """Return the whole answer, as bytes, to a search that comes while the queue is full."""
    headers, body = _refused(429, "full", FULL)
    lines = b"".join(b"%s: %s\r\n" % header for header in [*headers, *_HEADERS])
    return b"HTTP/1.1 429 Too Many Requests\r\n" + lines + b"\r\n" + body


async def refuse(send, status: int, code: str, message: str) -> None:
    """Send a refusal as JSON."""
    headers, body = _refused(status, code, message)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refused(status: int, code: str, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of a refusal."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="retrieval", charset="UTF-8"'))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    return headers, body
