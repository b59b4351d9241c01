"""An index in a Milvus: a server or cluster by address, or a folder of Milvus Lite for development.

    NAME_0001    the items: id, place in the order, what is filtered by, what is returned, and the vector
    NAME_card    the card, which names the collection above; replacing it is how data are exchanged

Milvus proposes the items; their scores are computed here, in float32 from their vectors, and ties stand
in the order of the items. No graph is built: a graph misses the best hit of many queries where vectors
repeat. What Milvus Lite gets wrong without a word is refused here before it is asked, or never asked
(docs/index.md).
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np

from config.errors import UserError
from serving.index.card import Card, card_of, check_bundle
from serving.index.engines.exact import best_first, exact_scores
from serving.index.filters import keys_of, parse_filter
from serving.index.index import Hit
from serving.index.items import Item, checked_items, refuse_known, refuse_unknown
from serving.index.milvus.conditions import as_milvus
from serving.index.milvus.connection import Connection
from serving.index.milvus.rows import MESSAGE_BYTES, id_parts, item_of, one_of, store, write_card
from serving.index.vectors import check_vectors

MOST_HITS = 1000  # of a query; a server proposes at most 16,384
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
                search_params={"metric_type": "IP", "params": search_parameters(self._card)},
                consistency_level="Session",
                **wanted,
            )
            found.append(_hits([hit["entity"] for hit in answer[0]], query, k))
        return found

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors [n,D] of items; raise UserError for an id that is not there."""
        found = {}
        for part in id_parts(ids):
            rows = self._milvus.call(
                "query", self._items, filter=one_of(part), output_fields=["id", "vector"]
            )
            found.update({row["id"]: np.float32(row["vector"]) for row in rows})
        refuse_unknown(ids, found, self.folder, "name one that is there")
        return np.stack([found[each] for each in ids])

    def described(self, ids: Sequence[str]) -> list[Item]:
        """Return those of the items `ids` that are there, in that order."""
        found = {}
        for part in id_parts(ids):
            fields = ["id", "place", "record"]
            rows = self._milvus.call("query", self._items, filter=one_of(part), output_fields=fields)
            found.update({row["id"]: item_of(row) for row in rows})
        return [found[each] for each in ids if each in found]

    def items(self) -> Iterator[Item]:
        """Yield all items in their order."""
        for row in self._rows(["id", "place", "record"]):
            yield item_of(row)

    def keys(self) -> list[str]:
        """Return the keys that metadata of some item have, dotted for objects in objects."""
        return sorted(self._keys)

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
        if not replace:  # Milvus would replace them without a word
            refuse_known(known, known)
        self._store(items, vectors)

    def describe(self, items: Sequence[Item]) -> None:
        """Replace captions and metadata of items, not their vectors; raise UserError for unknown ids."""
        items = checked_items(items, "items")
        self._store(items, self.vectors_of([item.id for item in items]))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items; raise UserError for an id that is not there."""
        ids = list(dict.fromkeys(ids))
        refuse_unknown(ids, self._known(ids), self.folder)  # Milvus would report them as deleted
        for part in id_parts(ids):
            self._milvus.call("delete", self._items, filter=one_of(part))

    def drop_previous(self) -> None:
        """Delete what was there before the model was changed; raise UserError if there is nothing."""
        if self._card.previous is None:
            raise UserError(f"{self.folder}: it keeps no older data")
        self._milvus.call("drop_collection", f"{self._name}_{self._card.previous}")
        self._card = dataclasses.replace(self._card, previous=None)
        write_card(self._milvus, self._name, self._card, self._next_place, self._keys)

    def verify(self) -> None:
        """Read everything; raise UserError for an item that is there twice or has no proper vector."""
        seen = set()
        for row in self._rows(_FIELDS):
            check_vectors(f"{self.folder}: {row['id']}", [row["vector"]], self._card.dimension, "cosine")
            if row["id"] in seen:
                raise UserError(f"{self.folder}: {row['id']!r} is there twice")
            seen.add(row["id"])
            item_of(row)
        if len(seen) != self.card.count:
            raise UserError(f"{self.folder}: {len(seen)} items found of {self.card.count}")

    def _rows(self, fields: list[str]) -> Iterator[dict]:
        step = max(1, min(1000, MESSAGE_BYTES // (4 * self._card.dimension)))
        for start in range(0, self._next_place, step):  # by places: pages of Milvus Lite repeat hits
            inside = f"place >= {start} and place < {start + step}"
            rows = self._milvus.call("query", self._items, filter=inside, output_fields=fields)
            yield from sorted(rows, key=lambda row: row["place"])

    def _known(self, ids: Sequence[str]) -> list[str]:
        found = []
        for part in id_parts(ids):
            rows = self._milvus.call("query", self._items, filter=one_of(part), output_fields=["id"])
            found += [row["id"] for row in rows]
        return found

    def _store(self, items: list[Item], vectors: np.ndarray) -> None:
        self._keys.update(key for item in items for key in keys_of(item.metadata))
        first, self._next_place = self._next_place, self._next_place + len(items)
        write_card(self._milvus, self._name, self._card, self._next_place, self._keys)
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


def search_parameters(card: Card) -> dict:
    return {"nprobe": card.parameters["nprobe"]} if "nprobe" in card.parameters else {}


def _hits(rows: list[dict], query: np.ndarray, k: int) -> list[Hit]:
    if not rows:
        return []
    vectors = np.float32([row["vector"] for row in rows])
    places = np.array([row["place"] for row in rows])
    by_place = dict(zip(places.tolist(), rows, strict=True))
    scores, best = best_first(exact_scores(vectors, query), places, k)
    items = [item_of(by_place[place]) for place in best.tolist()]
    return [
        Hit(item.id, float(score), item.caption, item.metadata)
        for item, score in zip(items, scores, strict=True)
    ]
