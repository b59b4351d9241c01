"""Ranks of 100,000 images and 500,000 captions, and whether those of a sample are what plain counts give.

    python benchmarks/counts/large_evaluation.py [--images 100000] [--width 256] [--threads 2]

Embeddings are drawn: an image is a unit vector, and each of its five captions is the image and noise of such
a length that recalls are neither 0 nor 100; a tenth of the captions repeat another, as in real data, so that
scores tie. Both directions are ranked by this toolkit; the plain count takes 500 queries of each, all scores
in float64, and counts what is not right and scores as high. The result goes to docs/evaluation.md.
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from _report import peak_memory

CAPTIONS, NOISE, SAMPLE, BLOCK = 5, 1.6, 500, 20_000
EQUAL = 1e-12  # products of equal vectors differ by so much at the edges of blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="captions are five times as many")
    parser.add_argument("--width", type=int, default=256, help="of an embedding")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu", args.threads)
    import numpy as np

    from engine.ranking.metrics import summarize
    from engine.ranking.ranks import retrieval_ranks

    images, texts, owner = draw(args.images, args.width)
    before, began, used = peak_memory(), time.monotonic(), time.process_time()

    def show(done: int, total: int) -> None:
        minutes = (time.monotonic() - began) / 60
        print(f"{minutes:.1f} min: {100 * done / total:.0f}%", file=sys.stderr, flush=True)

    ranks = retrieval_ranks(images, texts, np.arange(args.images), owner, progress=show)
    minutes, processor = (time.monotonic() - began) / 60, (time.process_time() - used) / 60
    print(
        f"{args.images:,} x {len(texts):,}, width {args.width}: {minutes:.1f} minutes by the clock, ", end=""
    )
    print(f"{processor:.1f} of the processor; {peak_memory() - before:.2f} GB over the embeddings' ", end="")
    print(f"{(images.nbytes + texts.nbytes) / 1e9:.2f} GB")
    metrics = summarize(*ranks)
    print({name: round(value, 3) for name, value in metrics.items()})
    random = np.random.default_rng(1)
    for name, found, queries, gallery, own, theirs in (
        ("image to text", ranks[0], images, texts, np.arange(args.images), owner),
        ("text to image", ranks[1], texts, images, owner, np.arange(args.images)),
    ):
        rows = random.choice(len(queries), SAMPLE, replace=False)
        ours, truth = found[rows], plain_ranks(queries[rows], gallery, own[rows], theirs)
        recalls = [f"{100 * (part < k).mean():.1f}" for k in (1, 5, 10) for part in (ours, truth)]
        print(
            f"{name}: {(ours != truth).sum()} of {SAMPLE} ranks differ from a plain count in float64, by "
            f"{np.abs(ours - truth).max()} at most; R@1, 5, 10, ours and plain: {', '.join(recalls)}"
        )


def draw(images: int, width: int) -> tuple:
    """Return unit vectors of images [I,D] and captions [5I,D], float32, and the image of each caption."""
    import numpy as np

    random = np.random.default_rng(0)
    vectors = random.standard_normal((images, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owner = np.repeat(np.arange(images), CAPTIONS)
    texts = np.empty((len(owner), width), np.float32)
    for begin in range(0, len(owner), 50_000):
        rows = slice(begin, begin + 50_000)
        noise = random.standard_normal(texts[rows].shape, np.float32) * np.float32(NOISE / width**0.5)
        texts[rows] = vectors[owner[rows]] + noise * random.uniform(0.5, 2.5, (len(noise), 1)).astype(
            np.float32
        )
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    repeated = random.choice(len(texts), (2, len(texts) // 10), replace=False)
    texts[repeated[0]] = texts[repeated[1]]
    return vectors, texts, owner


def plain_ranks(queries: object, gallery: object, own: object, theirs: object) -> object:
    """Return how many wrong items of the gallery score as high as a query's best right one, in float64."""
    import numpy as np

    queries = queries.astype(np.float64)
    best = np.full(len(queries), -np.inf)
    ahead = np.zeros(len(queries), np.int64)
    for count in (False, True):
        for begin in range(0, len(gallery), BLOCK):
            scores = queries @ gallery[begin : begin + BLOCK].astype(np.float64).T
            right = own[:, None] == theirs[None, begin : begin + BLOCK]
            if count:
                ahead += ((scores >= best[:, None] - EQUAL) & ~right).sum(axis=1)
            else:
                best = np.maximum(best, np.where(right, scores, -np.inf).max(axis=1))
    return ahead


if __name__ == "__main__":
    main()
