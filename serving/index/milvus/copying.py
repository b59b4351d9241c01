"""Copy an index from a folder to a Milvus, and measure it there."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.progress import ShowProgress, no_progress
from serving.index.card import Card, present_versions
from serving.index.engines import measured
from serving.index.filters import keys_of
from serving.index.index import Index
from serving.index.milvus.connection import Connection
from serving.index.milvus.index import search_parameters
from serving.index.milvus.rows import create_items, store, write_card

_WANTED_RECALL = 0.96


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
        create_items(milvus, collection, card.dimension, kind, parameters)
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
        write_card(milvus, name, card, len(items), keys)
    return card


def _index_for(count: int, lite: bool) -> tuple[str, dict]:
    """Return Milvus' index and its parameters: all vectors, or lists of them where they are many."""
    if lite or count < 20_000:
        return "FLAT", {}
    return "IVF_FLAT", {"nlist": int(min(4 * count**0.5, 65536))}


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


def _measure(
    milvus: Connection, collection: str, card: Card, vectors: np.ndarray, queries: np.ndarray, ids: list[str]
) -> Card:
    """Return the card with the recall and, of lists, with how many are looked into for enough of it."""
    true = measured.true_best(vectors, queries, 10)
    row_of = {identity: row for row, identity in enumerate(ids)}
    while True:
        options = {"metric_type": "IP", "params": search_parameters(card)}
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
