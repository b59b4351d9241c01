"""1,000,000 vectors of 256 numbers in an inverted file, against exact search and against plain FAISS.

The vectors stand in clusters: 20,000 centres, and around each some 50 points at half the centre's length,
which makes cosines of 0.8. Queries are other points of the same clusters. Ours is `Index.search`, which
scores again in float32, compares checksums and returns ids, captions and metadata. Exact search is the
index's exact engine on the same vectors. Plain FAISS is the very inverted file that ours has saved, looked
into as far, with IndexRefineFlat to score again; it returns numbers of rows. Queries come one at a time.
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
    report(
        f"{what}, against exact search",
        found["ours_beside_exact"],
        found["exact"],
        goal=20,
        unit="queries/s",
        higher_is_better=True,
    )
    report(
        f"{what}, against plain FAISS",
        found["ours"],
        found["faiss"],
        0.95,
        "queries/s",
        higher_is_better=True,
    )


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

    def ours() -> float:
        return per_second(lambda query: index.search(query[None], 10), next_queries(100))

    def plain() -> float:
        return per_second(lambda query: refined.search(query[None], 10), next_queries(100))

    def exactly() -> float:
        def search(query: np.ndarray) -> None:
            exact.search(lambda rows: vectors[rows], query[None], 10, None, None)

        return per_second(search, next_queries(20))

    def per_second(search, asked: np.ndarray) -> float:
        start = time.perf_counter()
        for query in asked:
            search(query)
        return len(asked) / (time.perf_counter() - start)

    true = true_best(vectors, queries, 10)
    found = [np.array([int(hit.id[1:]) for hit in hits]) for hits in index.search(queries, 10)]
    ours(), plain(), exactly()
    beside_faiss = alternate(ours, plain, rounds=9)
    beside_exact = alternate(ours, exactly, rounds=5)
    return {
        "recall": recall(found, true, 10),
        "faiss_recall": recall(list(refined.search(queries, 10)[1]), true, 10),
        "ours": beside_faiss[0],
        "faiss": beside_faiss[1],
        "exact": beside_exact[1],
        "ours_beside_exact": beside_exact[0],
        "card": {
            "recall_at_10": card.recall_at_10,
            "memory_bytes": card.memory_bytes,
            "seconds": round(took, 1),
        }
        | card.parameters,
    }


if __name__ == "__main__":
    main()
