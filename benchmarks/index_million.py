"""1,000,000 vectors of 256 numbers in an inverted file, against exact search and against plain FAISS.

The vectors stand in clusters: 20,000 centres, and around each some 50 points at half the centre's length,
which makes cosines of 0.8. Queries are other points of the same clusters, 64 together, as a service collects
them, and one at a time. Ours is `Index.search`, which scores again in float32, compares checksums and returns
ids, captions and metadata; its rows alone are what it does before it reads ids, captions and metadata from
their file. Exact search is the index's exact engine on the same vectors, asked alike. Plain FAISS is the very
inverted file that ours has saved, with IndexRefineFlat to score again: it looks into one number of lists for
every query, the fewest that find as much as ours, and returns numbers of rows.
"""

from _report import alternate, report, run_child

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

COUNT, WIDTH, CENTRES, QUERIES, NOISE = 1_000_000, 256, 20_000, 640, np.float32(0.5)
TOGETHER = 64
GOALS = {
    ("whole answers", "exact search"): 20,
    ("rows alone", "FAISS"): 0.95,
    ("whole answers", "FAISS"): 0.95,
}


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = run_child(__file__, folder)
    card = found["card"]
    print(f"card: {json.dumps(card)}")
    recalls = f"ours {found['recall']:.4f}, FAISS with {found['probes']} lists {found['faiss_recall']:.4f}"
    print(f"recall@10 on {QUERIES} other queries: {recalls}")
    what = f"{COUNT:,} x {WIDTH} in an inverted file"
    report(f"recall@10 of {what}, of 0.95", found["recall"], 0.95, 1, "", higher_is_better=True)
    for (of, against), goal in GOALS.items():
        for number in (TOGETHER, 1):
            rates = found["rates"][f"{of}, {against}, {number}"]
            asked = f"{number} together" if number > 1 else "one at a time"
            report(
                f"{what}, {of}, {asked}, against {against}", *rates, goal, "queries/s", higher_is_better=True
            )


def points(random: np.random.Generator, count: int) -> np.ndarray:
    """Return so many points of the clusters, of length 1: float32 [n,D]."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, WIDTH), dtype=np.float32)
    vectors = centres[random.integers(0, CENTRES, count)]
    vectors += NOISE * random.standard_normal((count, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(folder: Path) -> dict:
    """Build the index in a folder, and return what its card says, with the seconds that it took."""
    from serving.index.build import publish
    from serving.index.card import Card
    from serving.index.finishing import Options, finish
    from serving.index.items import Item, Items
    from serving.index.vectors import VectorFile

    draft, random = folder / "building", np.random.default_rng(1)
    draft.mkdir(parents=True)
    file, items = VectorFile(draft, WIDTH), Items(draft, create=True)
    began = time.monotonic()
    for start in range(0, COUNT, 50_000):
        file.write(start, points(random, 50_000))
        items.insert([Item(f"p{row}", None, {"row": row}) for row in range(start, start + 50_000)])
    items.close()
    card = finish(draft, Card("", "pictures", COUNT, WIDTH, "cosine", "0" * 64), Options("lists"), None)
    took = time.monotonic() - began
    publish(folder, draft, card)
    said = {"recall_at_10": card.recall_at_10, "memory_bytes": card.memory_bytes, "seconds": round(took, 1)}
    return said | card.parameters


def measure(folder: Path) -> dict:
    """Build the index and return recalls, queries per second and what its card says."""
    import faiss

    from serving.index.engines import codes, int8
    from serving.index.engines.lists import LISTS
    from serving.index.engines.measured import recall, true_best
    from serving.index.index import Index
    from serving.index.vectors import VectorFile
    from serving.index.view import search_view

    said = build(folder / "index")
    index = Index(folder / "index")
    card, data = index.card, folder / "index" / index.card.data
    vectors, _ = VectorFile(data, WIDTH).open(COUNT)
    queries = points(np.random.default_rng(2), QUERIES)
    plain = faiss.read_index(str(data / LISTS))
    refined = faiss.IndexRefineFlat(plain, faiss.swig_ptr(np.ascontiguousarray(vectors)))
    refined.k_factor = 4
    exact = int8.Int8(codes.codes_of(vectors), 2)

    true = true_best(vectors, queries, 10)
    found = [np.array([int(hit.id[1:]) for hit in hits]) for hits in index.search(queries, 10)]
    ours, theirs = recall(found, true, 10), 0.0
    plain.nprobe = 0
    while theirs < ours and plain.nprobe < plain.nlist:
        plain.nprobe += 1
        theirs = recall(list(refined.search(queries, 10)[1]), true, 10)

    searches = {
        "whole answers": lambda some: index.search(some, 10),
        "rows alone": lambda some: search_view(index._now()[0], card, data, some, 10, None, False),
        "FAISS": lambda some: refined.search(some, 10),
        "exact search": lambda some: exact.search(lambda rows: vectors[rows], some, 10, None, None),
    }

    def per_second(name: str, together: int) -> float:
        count = 64 if name == "exact search" else QUERIES
        start = time.perf_counter()
        for first in range(0, count, together):
            searches[name](queries[first : first + together])
        return count / (time.perf_counter() - start)

    for name in searches:
        per_second(name, TOGETHER)
    rates = {
        f"{of}, {against}, {number}": alternate(
            partial(per_second, of, number), partial(per_second, against, number), rounds=9
        )
        for of, against in GOALS
        for number in (TOGETHER, 1)
    }
    return {
        "recall": ours,
        "faiss_recall": theirs,
        "probes": plain.nprobe,
        "rates": rates,
        "card": said,
    }


if __name__ == "__main__":
    main()
