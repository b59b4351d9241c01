"""Ranking against an earlier build: captions among images both ways, and pictures among pictures.

The embeddings are those of `ranking.py` (5,000 x 25,000 x 1024) and of `image_recall.py` (60,000 x 2,048 with
the spectrum of a CNN's features, or a flat one). Ranks of both builds are compared: the earlier one adds up
in float32, so that single queries may differ by a place. The limit is the products alone, in float32.
"""

from _report import ROOT, peak_memory, report, rounds_of, run_child, seconds

import json
import statistics
import sys
import tempfile
from pathlib import Path

ROUNDS, MOST_THAT_DIFFER = 3, 1e-3  # the share of queries
PICTURES_MEMORY_GB = 1.0


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    from _builds import earlier_build  # not above: a child imports modules of its own build alone

    with tempfile.TemporaryDirectory() as folder, earlier_build(Path(folder) / "build") as earlier:
        compare("captions", "ranking 5000 x 25000 x 1024 against 79f190b", 1.5, earlier, folder)
        for kind in ("unstructured", "spectrum of a CNN"):
            name = f"R@1000 of 60000 x 2048 against 79f190b, {kind}"
            ours = compare("pictures", name, 1.3, earlier, folder, kind)
            name = f"peak memory of R@1000 of 60000 x 2048, {kind}, of {PICTURES_MEMORY_GB:g} GB"
            memory = max(run["memory"] for run in ours)
            report(name, memory, PICTURES_MEMORY_GB, goal=1, unit="GB", higher_is_better=False)


def compare(what: str, name: str, goal: float, earlier: Path, folder: str, kind: str = "") -> list[dict]:
    """Report how many times faster ours is, and return what was measured of it."""
    roots = {"ours": ROOT, "earlier": earlier}
    rounds = rounds_of(ROUNDS)
    runs: dict[str, list[dict]] = {side: [] for side in roots}
    for _ in range(rounds):
        for side, root in roots.items():
            runs[side].append(run_child(__file__, what, str(root), f"{folder}/{side}.npz", kind))
            print(f"{side}: {runs[side][-1]['seconds']:.2f} s, {runs[side][-1]['memory']:.2f} GB", flush=True)
    show_differences(folder)
    print(f"the products alone, in float32: {runs['ours'][0]['limit']:.2f} s", flush=True)
    took = (statistics.median(run["seconds"] for run in runs[side]) for side in roots)
    report(name, *took, goal, unit="s", higher_is_better=False)
    return runs["ours"]


def show_differences(folder: str) -> None:
    """Print how many ranks differ between the builds; raise RuntimeError if they are too many."""
    import numpy as np

    ours, earlier = (np.load(f"{folder}/{side}.npz") for side in ("ours", "earlier"))
    for side in ours.files:
        off = np.abs(np.minimum(ours[side], 1000) - np.minimum(earlier[side], 1000))
        print(
            f"{side}: {np.count_nonzero(off)} of {len(off)} ranks differ, by {off.max():g} at most",
            flush=True,
        )
        if np.count_nonzero(off) > MOST_THAT_DIFFER * len(off):
            raise RuntimeError("the builds disagree: there is nothing to compare")


def measure(what: str, root: str, ranks: str, kind: str) -> dict:
    """Rank with the build in `root`, and write the ranks."""
    import image_recall
    import ranking

    sys.path.insert(0, root)
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    import numpy as np

    if what == "captions":
        query, items = ranking.embeddings(ranking.COSINE_IMAGES)
        ids = np.arange(len(query))
        rank = rank_captions()
        found, took = timed(lambda: rank(query, items, ids, ids.repeat(ranking.CAPTIONS)))
        np.savez(ranks, i2t=found[0], t2i=found[1])
        share = 1.0
    else:
        query, labels = image_recall.embeddings(kind)
        rank = rank_pictures()
        found, took = timed(lambda: rank(query, labels))
        np.savez(ranks, ranks=found.ranks)
        items, share = query, 0.5  # each pair of pictures is multiplied once
    memory = peak_memory()
    part, other = query[:2000], items[2000:4000]  # not the same: NumPy would make half of the products
    product = min(timed(lambda: part @ other.T)[1] for _ in range(5)) / (len(part) * len(other))
    return {"seconds": took, "memory": memory, "limit": product * len(query) * len(items) * share}


def rank_captions():
    """Return the function that ranks both ways, in this build or the earlier one."""
    try:
        from engine.ranking.ranks import retrieval_ranks
    except ImportError:
        from engine.ranking import retrieval_ranks
    return retrieval_ranks


def rank_pictures():
    """Return the function that ranks pictures, in this build or the earlier one."""
    try:
        from engine.ranking.pictures.ranks import image_ranks
    except ImportError:
        from engine.image_ranking import image_ranks
    return image_ranks


def timed(work) -> tuple:
    found = []
    took = seconds(lambda: found.append(work()))
    return found[0], took


if __name__ == "__main__":
    main()
