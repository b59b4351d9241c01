"""A client of the search service in one file, which needs Python alone: copy it to where you need it.

client = Client("http://127.0.0.1:8000")
for hit in client.search("a red circle")["hits"]:
    print(hit["rank"], hit["id"], hit["score"])
"""

import base64
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote


class RefusedError(Exception):
    """The service refused; `status` is that of HTTP, and `code` the service's word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class UnansweredError(OSError):
    """The service is not there, or ended the connection, as it does while what is too large still comes."""


class Client:
    """Calls the service at an address; where it is busy, a call waits and tries again `attempts` times."""

    def __init__(
        self, address: str, key: str | None = None, seconds: float = 30.0, attempts: int = 5
    ) -> None:
        self._address, self._seconds, self._attempts = address.rstrip("/"), seconds, attempts
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def search(self, *texts: str, minus: str | None = None, **options: object) -> dict:
        """Return the answer for a sum of sentences, less `minus`; `options` are k, offset, where, rerank."""
        terms = [{"text": text} for text in texts]
        terms += [{"text": minus, "weight": -1}] if minus else []
        return self.search_terms(terms, **options)

    def search_terms(self, terms: list[dict], **options: object) -> dict:
        """Return the answer for terms: objects of text, id, picture or features, and weight."""
        return self._json("POST", "/v1/search", {"terms": terms, **options})

    def search_picture(self, path: str | Path, **options: object) -> dict:
        """Return the answer for a picture file."""
        return self.search_terms([{"picture": _encoded(path)}], **options)

    def search_like(self, identity: str, **options: object) -> dict:
        """Return the items that are most like an item."""
        return self.search_terms([{"id": identity}], **options)

    def explain(self, text: str, identity: str) -> dict:
        """Return what each word of a sentence contributes to its score with an item."""
        return self._json("POST", "/v1/explain", {"text": text, "id": identity})

    def item(self, identity: str) -> dict:
        """Return what is known of an item."""
        return self._json("GET", _item(identity))

    def put(
        self,
        identity: str,
        picture: str | Path | None = None,
        caption: str | None = None,
        metadata: dict | None = None,
        features: list | None = None,
    ) -> dict:
        """Add an item, or update it: a picture file, or the features that the model reads."""
        content = {"caption": caption, "metadata": metadata or {}, "features": features}
        content["picture"] = _encoded(picture) if picture else None
        return self._json("PUT", _item(identity), content)

    def describe(self, identity: str, caption: str | None, metadata: dict) -> dict:
        """Replace caption and metadata of an item."""
        return self._json("PATCH", _item(identity), {"caption": caption, "metadata": metadata})

    def delete(self, identity: str) -> dict:
        """Delete an item."""
        return self._json("DELETE", _item(identity))

    def thumbnail(self, identity: str, size: int = 320) -> bytes:
        """Return a JPEG of an item: 160, 320, 640 or 1280 pixels."""
        return self._call("GET", f"/v1/thumbnails/{quote(identity, safe='')}?size={size}")

    def info(self) -> dict:
        """Return what is searched, and by which model."""
        return self._json("GET", "/v1/info")

    def _json(self, method: str, path: str, content: dict | None = None) -> dict:
        return json.loads(self._call(method, path, content))

    def _call(self, method: str, path: str, content: dict | None = None) -> bytes:
        data = None if content is None else json.dumps(content).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        for attempt in range(1, self._attempts + 1):
            try:
                with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code in (429, 503) and attempt < self._attempts:
                    time.sleep(float(error.headers.get("Retry-After", 1)))
                    continue
                raise _refusal(error) from error
            except OSError as error:
                raise UnansweredError(
                    f"{self._address} ended the connection before it answered ({error}): is it there, and is "
                    "what was sent smaller than 10 MB?"
                ) from error
        raise AssertionError("the last attempt returns or raises")


def _item(identity: str) -> str:
    return f"/v1/items/{quote(identity, safe='')}"


def _encoded(path: str | Path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def _refusal(error: urllib.error.HTTPError) -> RefusedError:
    try:
        content = json.loads(error.read())["error"]
        return RefusedError(error.code, content["code"], content["message"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(error.code, "http", str(error))
