"""What a collection of Milvus holds of an item, and how it is written and read."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from config.errors import UserError
from serving.index.card import Card, as_json
from serving.index.items import Item
from serving.index.milvus.conditions import filtered_by, quoted
from serving.index.milvus.connection import Connection

MESSAGE_BYTES = 8 << 20
_IDS_TOGETHER = 500


def store(milvus: Connection, collection: str, items: list[Item], vectors: np.ndarray, first: int) -> None:
    """Write items, the first of which gets the place `first`; those that are there are replaced."""
    rows = [
        {
            "id": checked_id(item.id),
            "place": first + number,
            "record": _record(item),
            "caption": item.caption or "",
            "metadata": filtered_by(item.metadata),
            "vector": vector,
        }
        for number, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]
    size = vectors[:1].nbytes + 2 * max((len(row["record"].encode()) for row in rows), default=0) + 512
    step = max(1, MESSAGE_BYTES // size)
    for start in range(0, len(rows), step):
        try:
            milvus.call("upsert", collection, rows[start : start + step])
        except UserError as error:
            raise UserError(f"{error}; {start} of {len(rows)} items are stored: update them all") from error


def item_of(row: dict) -> Item:
    caption, metadata = json.loads(row["record"])
    return Item(row["id"], caption, metadata)


def checked_id(identity: str) -> str:
    """Return an id; raise UserError for one that Milvus cannot hold, or would not find again."""
    if len(identity.encode()) > 512 or any(ord(letter) < 32 or letter in "\"'\\" for letter in identity):
        raise UserError(
            f"the id {identity[:60]!r}: with Milvus, expected at most 512 bytes, without quotation marks, "
            "backslashes and control characters"
        )
    return identity


def id_parts(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_TOGETHER):
        yield [checked_id(each) for each in ids[start : start + _IDS_TOGETHER]]


def one_of(ids: list[str]) -> str:
    return f"id in [{', '.join(map(quoted, ids))}]"


def create_items(milvus: Connection, collection: str, dimension: int, kind: str, parameters: dict) -> None:
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


def write_card(milvus: Connection, name: str, card: Card, places: int, keys: set[str]) -> None:
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


def _record(item: Item) -> str:
    record = json.dumps([item.caption, item.metadata], ensure_ascii=False)
    if len(record.encode()) > 65_000:
        raise UserError(f"{item.id!r}: with Milvus, caption and metadata may have 65,000 bytes together")
    return record
