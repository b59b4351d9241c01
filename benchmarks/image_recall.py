"""Recall@1000 of image retrieval on 60,000 x 2,048 embeddings, against the seed's method in plain NumPy.

The seed (PaddlePaddle's and MindSpore's metric_learn) takes the queries in 100 blocks. For each block it
computes squared distances to all embeddings, sorts each row fully, and looks for the query's class among the
first 1,000. In the seed, a pool of processes takes the blocks, and each process receives all embeddings for
each block; here one process takes block after block, with matrix products on all cores. Ours computes R@1 to
R@1000, MAP@R and R-precision together. The embeddings, of 11,316 classes, have the spectrum of a CNN's
features, or a flat one. Each measurement has its own process; ours runs before and after the baseline.
"""

from _report import peak_memory, report, run_child, seconds

import json
import statistics
import sys

PICTURES, WIDTH, CLASSES, DEEPEST = 60_000, 2048, 11_316, 1000
MEMORY_GB = 1.5
KINDS = {"unstructured": 0.0, "spectrum of a CNN": 1.0}  # exponents of the decay of the variances


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps({"ours": ours, "seed": seed}[sys.argv[1]](sys.argv[2])))
        return
    memory = []
    for kind in KINDS:
        first, baseline, second = (run_child(__file__, side, kind) for side in ("ours", "seed", "ours"))
        if abs(first["recall"] - baseline["recall"]) > 2e-3:
            raise RuntimeError(
                f"ours and the seed disagree: {first['recall']} and {baseline['recall']} percent"
            )
        print(
            f"{kind}: ours {first['seconds']:.1f} s and {second['seconds']:.1f} s, {first['memory']:.2f} GB, "
            f"the seed's method {baseline['seconds']:.1f} s, {baseline['memory']:.2f} GB; "
            f"R@1 {first['r1']:.1f}, R@{DEEPEST} {first['recall']:.3f}",
            flush=True,
        )
        memory += [first["memory"], second["memory"]]
        took = statistics.mean([first["seconds"], second["seconds"]])
        name = f"R@{DEEPEST} of {PICTURES} x {WIDTH} embeddings, {kind}"
        report(name, took, baseline["seconds"], goal=5, unit="s", higher_is_better=False)
    name = f"peak memory of R@{DEEPEST} on {PICTURES} x {WIDTH}, of {MEMORY_GB} GB"
    report(name, max(memory), MEMORY_GB, goal=1, unit="GB", higher_is_better=False)


def embeddings(kind: str):
    """Return unit vectors [N,D] in random order of classes, and their labels [N]."""
    import numpy as np

    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(PICTURES) % CLASSES)
    # A CNN's features have a common direction, and variances that decrease by a power of the dimension.
    scale = (np.arange(1, WIDTH + 1) ** -KINDS[kind]).astype(np.float32) ** 0.5
    centres = random.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    centres *= scale  # in place: what this takes would count as the ranks' memory
    vectors = np.empty((PICTURES, WIDTH), np.float32)
    spread = {"unstructured": 2.5, "spectrum of a CNN": 1.0}[kind]
    for start in range(0, PICTURES, 1000):
        rows = slice(start, start + 1000)
        noise = random.standard_normal((len(labels[rows]), WIDTH), dtype=np.float32)
        part = centres[labels[rows]] + spread * scale * noise
        if KINDS[kind]:
            part[:, 0] += 2 * scale.sum() / len(scale) * WIDTH**0.5
        vectors[rows] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors, labels


def ours(kind: str) -> dict:
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")  # an evaluation's memory includes Paddle's
    from engine.ranking.pictures.metrics import summarize_images
    from engine.ranking.pictures.ranks import image_ranks

    vectors, labels = embeddings(kind)
    found = []
    took = seconds(lambda: found.append(image_ranks(vectors, labels)))
    metrics = summarize_images(found[0].ranks, found[0].average_precision, found[0].r_precision)
    return {
        "seconds": took,
        "memory": peak_memory(),
        "recall": metrics[f"r{DEEPEST}"],
        "r1": metrics["r1"],
        "map": metrics["map_at_r"],
    }


def seed(kind: str) -> dict:
    import numpy as np

    vectors, labels = embeddings(kind)
    found = []

    def search() -> None:
        squares = (vectors**2).sum(axis=1)
        for rows in np.array_split(np.arange(len(vectors)), 100):
            distances = squares[rows, None] + squares - 2 * (vectors[rows] @ vectors.T)
            distances[np.arange(len(rows)), rows] += 1e8
            order = np.argsort(distances, axis=1)[:, :DEEPEST]
            found.append((labels[order] == labels[rows, None]).any(axis=1))

    took = seconds(search)
    return {"seconds": took, "memory": peak_memory(), "recall": 100 * float(np.concatenate(found).mean())}


if __name__ == "__main__":
    main()
