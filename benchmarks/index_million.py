"""1,000,000 vectors of 256 numbers in an inverted file, against exact search and against plain FAISS.

The vectors stand in clusters: 20,000 centres, and around each some 50 points at half the centre's length,
which makes cosines of 0.8. Queries are other points of the same clusters, one at a time. Ours is
`Index.search`, which scores again in float32, compares checksums and returns ids, captions and metadata; its
rows alone are what it does before it reads ids, captions and metadata from their file. Exact search is the
index's exact engine on the same vectors. Plain FAISS is the very inverted file that ours has saved, looked
into as far, with IndexRefineFlat to score again; it returns numbers of rows.
"""

from _report import alternate, report, run_child

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COUNT, WIDTH, CENTRES, QUERIES, NOISE = 1_000_000, 256, 20_000, 400, np.float32(0.5)


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = run_child(__file__, folder)
    card = found["card"]
    print(f"card: {json.dumps(card)}")
    print(
        f"recall@10 on {QUERIES} other queries: ours {found['recall']:.4f}, FAISS {found['faiss_recall']:.4f}"
    )
    what = f"{COUNT:,} x {WIDTH} in an inverted file"
    report(f"recall@10 of {what}, of 0.95", found["recall"], 0.95, 1, "", higher_is_better=True)
    report(f"{what}, against exact search", *found["exact"], 20, "queries/s", higher_is_better=True)
    for of, measured in found["faiss"].items():
        report(f"{what}, {of}, against FAISS", *measured, 0.95, "queries/s", higher_is_better=True)


def measure(folder: Path) -> dict:
    """Build the index and return recalls, queries per second and the card."""
    import faiss

    from serving.index.engines import codes, int8, quantised, saved
    from serving.index.build import publish
    from serving.index.finishing import Options, finish
    from serving.index.card import Card
    from serving.index.index import Index
    from serving.index.items import Item, Items
    from serving.index.engines.measured import recall, true_best
    from serving.index.vectors import VectorFile
    from serving.index.view import search_view

    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, WIDTH), dtype=np.float32)

    def points(count: int) -> np.ndarray:
        vectors = centres[random.integers(0, CENTRES, count)]
        vectors += NOISE * random.standard_normal((count, WIDTH), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    draft = folder / "index" / "building"
    draft.mkdir(parents=True)
    file, items = VectorFile(draft, WIDTH), Items(draft, create=True)
    began = time.monotonic()
    for start in range(0, COUNT, 50_000):
        file.write(start, points(50_000))
        items.insert([Item(f"p{row}", None, {"row": row}) for row in range(start, start + 50_000)])
    items.close()
    card = finish(draft, Card("", "pictures", COUNT, WIDTH, "cosine", "0" * 64), Options("lists"), None)
    took = time.monotonic() - began
    card = publish(folder / "index", draft, card)
    index = Index(folder / "index")
    vectors, _ = VectorFile(folder / "index" / card.data, WIDTH).open(COUNT)
    queries = points(QUERIES)
    lists = quantised.load_lists(
        folder / "index" / card.data, saved.Saved("lists", COUNT, card.check, card.parameters)
    )
    lists._index.nprobe = card.parameters["probes"]
    refined = faiss.IndexRefineFlat(lists._index, faiss.swig_ptr(np.ascontiguousarray(vectors)))
    refined.k_factor = 4
    exact = int8.Int8(codes.codes_of(vectors), 2)
    turn = 0

    def next_queries(count: int) -> np.ndarray:
        nonlocal turn
        turn += count
        return queries[np.arange(turn - count, turn) % QUERIES]

    def exactly(query: np.ndarray) -> None:
        exact.search(lambda rows: vectors[rows], query, 10, None, None)

    searches = {
        "whole answers": lambda query: index.search(query, 10),
        "rows alone": lambda query: search_view(index._now()[0], card, folder, query, 10, None, False),
        "FAISS": lambda query: refined.search(query, 10),
        "exact": exactly,
    }

    def per_second(name: str, count: int = 100) -> float:
        asked, start = next_queries(count), time.perf_counter()
        for query in asked:
            searches[name](query[None])
        return count / (time.perf_counter() - start)

    def against(name: str, other: str, count: int, rounds: int) -> tuple[float, float]:
        return alternate(lambda: per_second(name), lambda: per_second(other, count), rounds=rounds)

    true = true_best(vectors, queries, 10)
    found = [np.array([int(hit.id[1:]) for hit in hits]) for hits in index.search(queries, 10)]
    for name in searches:
        per_second(name, 20)
    return {
        "recall": recall(found, true, 10),
        "faiss_recall": recall(list(refined.search(queries, 10)[1]), true, 10),
        "exact": against("whole answers", "exact", 20, 5),
        "faiss": {name: against(name, "FAISS", 100, 9) for name in ("rows alone", "whole answers")},
        "card": {
            "recall_at_10": card.recall_at_10,
            "memory_bytes": card.memory_bytes,
            "seconds": round(took, 1),
        }
        | card.parameters,
    }


if __name__ == "__main__":
    main()
