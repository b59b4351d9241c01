"""An index in a Milvus: a server or cluster by address, or a folder of Milvus Lite for development.

    NAME_0001    the items: id, place in the order, what is filtered by, what is returned, and the vector
    NAME_card    the card, which names the collection above; replacing it is how data are exchanged

Milvus proposes the items; their scores are computed here, in float32 from their vectors, and ties stand
in the order of the items. No graph is built: a graph misses the best hit of many queries where vectors
repeat. What Milvus Lite gets wrong without a word is refused here before it is asked, or never asked
(docs/index.md).
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from serving.index import measured
from serving.index.card import Card, as_json, card_of, check_bundle, present_versions
from serving.index.exact import best_first, exact_scores
from serving.index.filters import COLUMNS, Comparison, Condition, Junction, Value, keys_of, parse_filter
from serving.index.index import Hit, Index
from serving.index.items import Item, checked_items, refuse_unknown
from serving.index.vectors import check_vectors

SECONDS = 60.0  # that one call may take
MOST_HITS = 1000  # of a query; a server proposes at most 16,384
_MESSAGE_BYTES = 8 << 20
_IDS_TOGETHER = 500
_WANTED_RECALL = 0.97
_TRUE, _FALSE = "\ue000true", "\ue000false"  # Milvus Lite takes 1 for true, so truth is stored as text
_FIELDS = ["id", "place", "record", "vector"]


class MilvusIndex:
    """The index `name` in the Milvus at `server`, with the methods of `Index`.

    Other processes see a change within some seconds, this one at once. Raises UserError for a Milvus that is
    away or refuses, and for a name that holds no index.
    """

    def __init__(self, server: str, name: str) -> None:
        self.folder, self._name = f"{server}/{name}", name
        self._milvus = Connection(server)
        try:
            self._card, state = self._read_card()
            self._next_place, self._keys = state["places"], set(state["keys"])
            self._items = f"{name}_{self._card.data}"
            found = self._milvus.call("describe_index", self._items, "vector")
            if found.get("metric_type") != "IP":  # Milvus Lite would mix the scores of two metrics
                raise UserError(f"{self.folder}: its vectors are not compared by inner products: build anew")
            self._milvus.call("load_collection", self._items)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "MilvusIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._milvus.close()

    @property
    def card(self) -> Card:
        """Return the card, with the present number of items."""
        found = self._milvus.call("query", self._items, filter="", output_fields=["count(*)"])
        return dataclasses.replace(self._card, count=int(found[0]["count(*)"]))

    def check_bundle(self, identity: str) -> None:
        """Raise UserError unless the bundle with this identity made the vectors."""
        check_bundle(self._card, identity, self.folder)

    def search(
        self, queries: np.ndarray, k: int, where: str | None = None, of_pictures: bool = False
    ) -> list[list[Hit]]:
        """Return the `k` best items for each of `queries` [Q,D], best first, as `Index.search` does.

        Raises UserError for a `k` above MOST_HITS, too: pages of Milvus Lite repeat hits, so there are none.
        """
        if k > MOST_HITS:
            raise UserError(f"expected at most {MOST_HITS} hits of a Milvus, got {k}")
        queries = check_vectors("query", queries, self._card.dimension, self._card.measure)
        wanted = {} if where is None else {"filter": as_milvus(parse_filter(where, sorted(self._keys)))}
        found = []
        for query in queries:
            answer = self._milvus.call(
                "search",
                self._items,
                data=query[None],
                limit=max(4 * k, k + 24),
                output_fields=_FIELDS,
                search_params={"metric_type": "IP", "params": _search_parameters(self._card)},
                consistency_level="Session",
                **wanted,
            )
            found.append(_hits([hit["entity"] for hit in answer[0]], query, k))
        return found

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors [n,D] of items; raise UserError for an id that is not there."""
        found = {}
        for part in _parts(ids):
            rows = self._milvus.call(
                "query", self._items, filter=_one_of(part), output_fields=["id", "vector"]
            )
            found.update({row["id"]: np.float32(row["vector"]) for row in rows})
        refuse_unknown(ids, found, self.folder)
        return np.stack([found[each] for each in ids])

    def items(self) -> Iterator[Item]:
        """Yield all items in their order."""
        for row in self._rows(["id", "place", "record"]):
            yield _item(row)

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Return the vectors of at most `number` random items [n,D]."""
        places = np.sort(np.random.default_rng(seed).permutation(self._next_place)[:number])
        rows = self._milvus.call(
            "query", self._items, filter=f"place in {places.tolist()}", output_fields=["place", "vector"]
        )
        return np.float32([row["vector"] for row in sorted(rows, key=lambda row: row["place"])])

    def add(self, items: Sequence[Item], vectors: np.ndarray, replace: bool = False) -> None:
        """Add items with their vectors [N,D]; with `replace`, update those that are there.

        Raises UserError as `Index.add` does. Where a Milvus fails in the midst of many items, those of some
        messages are stored, and the error says how many.
        """
        items = checked_items(items, "items")
        vectors = check_vectors("vectors", vectors, self._card.dimension, self._card.measure)
        if len(items) != len(vectors):
            raise UserError(f"expected one vector an item, got {len(items)} items and {len(vectors)} vectors")
        known = self._known([item.id for item in items])
        if known and not replace:  # Milvus would replace them without a word
            raise UserError(f"there is an item {known[0]!r} already: update it, or delete it first")
        self._store(items, vectors)

    def describe(self, items: Sequence[Item]) -> None:
        """Replace captions and metadata of items, not their vectors; raise UserError for unknown ids."""
        items = checked_items(items, "items")
        self._store(items, self.vectors_of([item.id for item in items]))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items; raise UserError for an id that is not there."""
        ids = list(dict.fromkeys(ids))
        refuse_unknown(ids, self._known(ids), self.folder)  # Milvus would report them as deleted
        for part in _parts(ids):
            self._milvus.call("delete", self._items, filter=_one_of(part))

    def verify(self) -> None:
        """Read everything; raise UserError for an item that is there twice or has no proper vector."""
        seen = set()
        for row in self._rows(_FIELDS):
            check_vectors(f"{self.folder}: {row['id']}", [row["vector"]], self._card.dimension, "cosine")
            if row["id"] in seen:
                raise UserError(f"{self.folder}: {row['id']!r} is there twice")
            seen.add(row["id"])
            _item(row)
        if len(seen) != self.card.count:
            raise UserError(f"{self.folder}: {len(seen)} items found of {self.card.count}")

    def _rows(self, fields: list[str]) -> Iterator[dict]:
        step = max(1, min(1000, _MESSAGE_BYTES // (4 * self._card.dimension)))
        for start in range(0, self._next_place, step):  # by places: pages of Milvus Lite repeat hits
            inside = f"place >= {start} and place < {start + step}"
            rows = self._milvus.call("query", self._items, filter=inside, output_fields=fields)
            yield from sorted(rows, key=lambda row: row["place"])

    def _known(self, ids: Sequence[str]) -> list[str]:
        found = []
        for part in _parts(ids):
            rows = self._milvus.call("query", self._items, filter=_one_of(part), output_fields=["id"])
            found += [row["id"] for row in rows]
        return found

    def _store(self, items: list[Item], vectors: np.ndarray) -> None:
        self._keys.update(key for item in items for key in keys_of(item.metadata))
        first, self._next_place = self._next_place, self._next_place + len(items)
        _write_card(self._milvus, self._name, self._card, self._next_place, self._keys)
        store(self._milvus, self._items, items, vectors, first)

    def _read_card(self) -> tuple[Card, dict]:
        name = f"{self._name}_card"
        if not self._milvus.call("has_collection", name):
            raise UserError(
                f"{self.folder}: there is no index; tools/build_index.py --out {self.folder} builds one"
            )
        self._milvus.call("load_collection", name)
        rows = self._milvus.call("query", name, filter='id == "card"', output_fields=["text"])
        try:
            content = json.loads(rows[0]["text"])
            state = content.pop("milvus")
        except (IndexError, ValueError, KeyError) as error:
            raise UserError(f"{self.folder}: its card cannot be read: build the index again") from error
        return card_of(content, self.folder), state


class Connection:
    """A connection whose every failure is one line."""

    def __init__(self, server: str) -> None:
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError as error:
            raise UserError(f"{server}: Milvus needs pip install -r requirements-milvus.txt") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints tracebacks of what is raised
        self.server, self._failure, self._client = server, MilvusException, None
        self.lite = "://" not in server
        if self.lite:  # as does the server that Milvus Lite starts in this process
            logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        with self._refused("cannot be reached"):
            self._client = MilvusClient(server, timeout=SECONDS)

    def call(self, method: str, *arguments: object, **options: object):
        """Return what a method of `MilvusClient` returns; raise UserError."""
        with self._refused("failed"):
            return getattr(self._client, method)(*arguments, timeout=SECONDS, **options)

    def schema(self, **options: object):
        """Return an empty schema."""
        return self._client.create_schema(**options)

    def index_parameters(self):
        """Return empty parameters of an index."""
        return self._client.prepare_index_params()

    def close(self) -> None:
        """End it, and with Milvus Lite release the folder, which its own `close` leaves locked."""
        if self._client is None:
            return
        with contextlib.suppress(Exception):
            self._client.close()
        if self.lite:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.server)

    @contextlib.contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._failure, OSError, ValueError) as error:
            reason = " ".join(str(getattr(error, "message", error)).split())[:200]
            if "Open local milvus failed" in reason:
                reason = "another process has it open, and Milvus Lite serves one at a time"
            raise UserError(
                f"{self.server}: Milvus {what} ({reason}); what it has acknowledged is stored"
            ) from error


def copy_to_milvus(
    local: Path, server: str, name: str, queries: np.ndarray | None, show: ShowProgress = no_progress
) -> Card:
    """Copy the index in a folder to a Milvus, measure it there on `queries` [Q,D], and switch to it.

    None: on perturbed items. Raises UserError for order similarity, and as `MilvusIndex` does; until the end,
    the index that was there before is searched.
    """
    with Index(local, resident=False) as index, contextlib.closing(Connection(server)) as milvus:
        card, items = index.card, list(index.items())
        if card.measure != "cosine":
            raise UserError("order similarity has exact search in a folder only: give --out a folder")
        began = time.monotonic()
        number, before = _next_number(milvus, name)
        collection = f"{name}_{number:04d}"
        if milvus.call("has_collection", collection):
            milvus.call("drop_collection", collection)
        kind, parameters = _index_for(len(items), milvus.lite)
        _create(milvus, collection, card.dimension, kind, parameters)
        keys = {key for item in items for key in keys_of(item.metadata)}
        for start in range(0, len(items), 1000):
            part = items[start : start + 1000]
            store(milvus, collection, part, index.vectors_of([item.id for item in part]), start)
            show("storing", min(start + 1000, len(items)), len(items))
        milvus.call("flush", collection)
        milvus.call("load_collection", collection)
        card = dataclasses.replace(
            card,
            data=f"{number:04d}",
            engine=f"Milvus {kind}",
            precision="float32",
            parameters={**parameters, **({"nprobe": 1} if parameters else {})},
            rows=0,
            check=0,
            previous=before,
            versions=present_versions("pymilvus"),
        )
        vectors = index.vectors_of([item.id for item in items])
        if queries is None or not len(queries):
            queries, asked = measured.perturbed(vectors, measured.QUERIES // 4), "perturbed items"
        else:
            queries, asked = queries[: measured.QUERIES // 4], "captions"
        card = _measure(milvus, collection, card, vectors, queries, [item.id for item in items])
        card = dataclasses.replace(
            card,
            recall_queries=f"{len(queries)} {asked}",
            build_seconds=round(card.build_seconds + time.monotonic() - began, 3),
        )
        _write_card(milvus, name, card, len(items), keys)
    return card


def store(milvus: Connection, collection: str, items: list[Item], vectors: np.ndarray, first: int) -> None:
    """Write items, the first of which gets the place `first`; those that are there are replaced."""
    rows = [
        {
            "id": checked_id(item.id),
            "place": first + number,
            "record": _record(item),
            "caption": item.caption or "",
            "metadata": _filtered_by(item.metadata),
            "vector": vector,
        }
        for number, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]
    size = vectors[:1].nbytes + 2 * max((len(row["record"].encode()) for row in rows), default=0) + 512
    step = max(1, _MESSAGE_BYTES // size)
    for start in range(0, len(rows), step):
        try:
            milvus.call("upsert", collection, rows[start : start + step])
        except UserError as error:
            raise UserError(f"{error}; {start} of {len(rows)} items are stored: update them all") from error


def checked_id(identity: str) -> str:
    """Return an id; raise UserError for one that Milvus cannot hold, or would not find again."""
    if len(identity.encode()) > 512 or any(ord(letter) < 32 or letter in "\"'\\" for letter in identity):
        raise UserError(
            f"the id {identity[:60]!r}: with Milvus, expected at most 512 bytes, without quotation marks, "
            "backslashes and control characters"
        )
    return identity


def as_milvus(condition: Condition, holds: bool = True) -> str:
    """Return the condition, or with `holds` false its opposite, in Milvus' own language.

    Milvus and Milvus Lite differ on the opposite of a comparison with a key that an item lacks, so that "not"
    is written with `exists`.
    """
    if isinstance(condition, Junction):
        if condition.word == "not":
            return as_milvus(condition.parts[0], not holds)
        joined = condition.word if holds else {"and": "or", "or": "and"}[condition.word]
        return "(" + f" {joined} ".join(as_milvus(part, holds) for part in condition.parts) + ")"
    key, relation, value = condition.key, condition.relation, condition.value
    if relation == "in":
        return as_milvus(Junction("or", tuple(Comparison(key, "=", each) for each in value)), holds)
    if key in COLUMNS:
        if relation == "contains":
            raise UserError(
                f"filter: {key} contains ...: a Milvus finds members of lists, not parts of texts"
            )
        if relation != "has" and not isinstance(value, str):
            raise UserError(f"filter: {key} is a text, got {json.dumps(value)}: write it in double quotes")
        there, field = f'({key} != "")', key
    else:
        field = "metadata" + '["in"]'.join(f"[{_quoted(part)}]" for part in key.split("."))
        there = f"(exists {field})"
    if relation == "has":
        return there if holds else f"(not {there})"
    if relation == "!=":
        same = as_milvus(Comparison(key, "=", value))
        return f"({there} and not {same})" if holds else f"(not {there} or {same})"
    if key not in COLUMNS:
        field += '["list"]' if relation == "contains" else f"[{_quoted(_kind(value))}]"
        there = f"(exists {field})"
    compared = (
        f"json_contains({field}, {_literal(value)})"
        if relation == "contains"
        else f"{field} {'==' if relation == '=' else relation} {_literal(value)}"
    )
    return f"({there} and {compared})" if holds else f"(not {there} or not ({compared}))"


def _literal(value: Value) -> str:
    value = _plain(value)
    if isinstance(value, str):
        return _quoted(value)
    return repr(min(max(value, -1.7e308), 1.7e308) if isinstance(value, float) else value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _filtered_by(metadata: dict) -> dict:
    """Return metadata as they are stored to be compared: each value below the name of its kind.

    So a comparison with a value of another kind is one with a key that is not there, in Milvus Lite too.
    """
    found = {}
    for key, value in metadata.items():
        if isinstance(value, dict):
            found[key] = {"in": _filtered_by(value)}
        elif isinstance(value, list):
            found[key] = {
                "list": [_plain(each) for each in value if isinstance(each, str | bool | int | float)]
            }
        elif value is not None:
            found[key] = {_kind(value): _plain(value)}
    return found


def _kind(value: Value) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _plain(value: Value) -> Value:
    return (_TRUE if value else _FALSE) if isinstance(value, bool) else value


def _record(item: Item) -> str:
    record = json.dumps([item.caption, item.metadata], ensure_ascii=False)
    if len(record.encode()) > 65_000:
        raise UserError(f"{item.id!r}: with Milvus, caption and metadata may have 65,000 bytes together")
    return record


def _item(row: dict) -> Item:
    caption, metadata = json.loads(row["record"])
    return Item(row["id"], caption, metadata)


def _hits(rows: list[dict], query: np.ndarray, k: int) -> list[Hit]:
    if not rows:
        return []
    vectors = np.float32([row["vector"] for row in rows])
    places = np.array([row["place"] for row in rows])
    by_place = dict(zip(places.tolist(), rows, strict=True))
    scores, best = best_first(exact_scores(vectors, query), places, k)
    items = [_item(by_place[place]) for place in best.tolist()]
    return [
        Hit(item.id, float(score), item.caption, item.metadata)
        for item, score in zip(items, scores, strict=True)
    ]


def _parts(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_TOGETHER):
        yield [checked_id(each) for each in ids[start : start + _IDS_TOGETHER]]


def _one_of(ids: list[str]) -> str:
    return f"id in [{', '.join(map(_quoted, ids))}]"


def _index_for(count: int, lite: bool) -> tuple[str, dict]:
    """Return Milvus' index and its parameters: all vectors, or lists of them where they are many."""
    if lite or count < 20_000:
        return "FLAT", {}
    return "IVF_FLAT", {"nlist": int(min(4 * count**0.5, 65536))}


def _search_parameters(card: Card) -> dict:
    return {"nprobe": card.parameters["nprobe"]} if "nprobe" in card.parameters else {}


def _create(milvus: Connection, collection: str, dimension: int, kind: str, parameters: dict) -> None:
    from pymilvus import DataType

    schema = milvus.schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
    schema.add_field("place", DataType.INT64)
    schema.add_field("caption", DataType.VARCHAR, max_length=65535)
    schema.add_field("record", DataType.VARCHAR, max_length=65535)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = milvus.index_parameters()
    index.add_index("vector", index_type=kind, metric_type="IP", params=parameters)
    milvus.call(
        "create_collection", collection, schema=schema, index_params=index, consistency_level="Strong"
    )


def _next_number(milvus: Connection, name: str) -> tuple[int, str | None]:
    """Return the number of the next data, and the present ones' if there are any."""
    if not milvus.call("has_collection", f"{name}_card"):
        return 1, None
    milvus.call("load_collection", f"{name}_card")
    rows = milvus.call("query", f"{name}_card", filter='id == "card"', output_fields=["text"])
    if not rows:
        return 1, None
    before = json.loads(rows[0]["text"])["data"]
    return int(before) + 1, before


def _write_card(milvus: Connection, name: str, card: Card, places: int, keys: set[str]) -> None:
    from pymilvus import DataType

    collection = f"{name}_card"
    if not milvus.call("has_collection", collection):
        schema = milvus.schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("text", DataType.VARCHAR, max_length=65535)
        schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # none is no collection
        index = milvus.index_parameters()
        index.add_index("nothing", index_type="FLAT", metric_type="L2")
        milvus.call(
            "create_collection", collection, schema=schema, index_params=index, consistency_level="Strong"
        )
    text = json.dumps({**json.loads(as_json(card)), "milvus": {"places": places, "keys": sorted(keys)}})
    milvus.call("upsert", collection, [{"id": "card", "text": text, "nothing": [0.0, 0.0]}])


def _measure(
    milvus: Connection, collection: str, card: Card, vectors: np.ndarray, queries: np.ndarray, ids: list[str]
) -> Card:
    """Return the card with the recall and, of lists, with how many are looked into for enough of it."""
    true = measured.true_best(vectors, queries, 10)
    row_of = {identity: row for row, identity in enumerate(ids)}
    while True:
        options = {"metric_type": "IP", "params": _search_parameters(card)}
        found = []
        for start in range(0, len(queries), 50):
            part = queries[start : start + 50]
            answer = milvus.call(
                "search", collection, data=part, limit=10, search_params=options, consistency_level="Session"
            )
            found += [np.array([row_of[hit["id"]] for hit in hits]) for hits in answer]
        card = dataclasses.replace(card, recall_at_10=round(measured.recall(found, true, 10), 4))
        probes = card.parameters.get("nprobe")
        if probes is None or card.recall_at_10 >= _WANTED_RECALL or probes >= card.parameters["nlist"]:
            return card
        more = min(2 * probes, card.parameters["nlist"])
        card = dataclasses.replace(card, parameters={**card.parameters, "nprobe": more})
