"""Ranking in both directions, against the method of VSE++ (also VSRN's) in plain NumPy.

Like `evaluation.py` of VSE++, the baseline takes one query at a time: it multiplies the query with the whole
gallery in float64, sorts all scores, and searches for the relevant item. Cosine similarity runs in full at
COCO's 5000 x 25000 x 1024. Order similarity runs at 1000 x 5000 x 1024, in PyTorch as in the original, on a
fifth of the queries, and the time is multiplied by five. Each measurement has its own process; ours runs
before, between and after the runs of the baseline.

Ranking that also fills lists of 20 items a query, as an evaluation does, is compared with ranking alone.
"""

from _report import alternate, peak_memory, report, run_child, seconds

import json
import statistics
import sys

CAPTIONS, WIDTH = 5, 1024  # captions per image, dimensions of an embedding
COSINE_IMAGES, ORDER_IMAGES, ORDER_SHARE = 5000, 1000, 5
MEMORY_GB = 1.0
LISTED = 20  # items a query


def main() -> None:
    if len(sys.argv) == 2:
        children = {"ours": ours, "product": product, "i2t": original_i2t, "t2i": original_t2i}
        children |= {
            "float32": original_in_float32,
            "order_ours": order_ours,
            "order_original": order_original,
            "lists": with_lists,
        }
        print(json.dumps(children[sys.argv[1]]()))
        return
    order, original_order = compare_order()
    runs, baseline = compare_cosine()
    memory = max(run["memory"] for run in runs)
    took = statistics.median(run["seconds"] for run in runs)
    name = f"ranking {ORDER_IMAGES} x {ORDER_IMAGES * CAPTIONS} x {WIDTH}, order similarity"
    report(name, order, original_order, goal=8, unit="s", higher_is_better=False)
    name = f"peak memory of ranking {COSINE_IMAGES} x {COSINE_IMAGES * CAPTIONS} x {WIDTH}, of 1 GB"
    report(name, memory, MEMORY_GB, goal=1, unit="GB", higher_is_better=False)
    lists = run_child(__file__, "lists")
    name = (
        f"ranking {COSINE_IMAGES} x {COSINE_IMAGES * CAPTIONS} x {WIDTH} with lists of {LISTED}, of without"
    )
    report(name, lists["with"], lists["without"], goal=0.5, unit="s", higher_is_better=False)
    name = f"ranking {COSINE_IMAGES} x {COSINE_IMAGES * CAPTIONS} x {WIDTH}, cosine"
    report(name, took, baseline, goal=8, unit="s", higher_is_better=False)


def compare_cosine() -> tuple[list[dict], float]:
    """Return the measurements of our runs, and the seconds of the baseline."""
    runs, original = [run_child(__file__, "ours")], {}
    for direction in ("i2t", "t2i"):
        original[direction] = run_child(__file__, direction)
        runs.append(run_child(__file__, "ours"))
        print(f"original, {direction}: {original[direction]['seconds']:.1f} s", flush=True)
        print(f"ours, both directions: {runs[-2]['seconds']:.2f} s, {runs[-1]['seconds']:.2f} s", flush=True)
    for direction, found in original.items():
        ours_mean = runs[0][f"{direction}_meanr"]
        print(f"mean rank {direction}: ours {ours_mean:.4f}, original {found['meanr']:.4f}")
        if abs(ours_mean - found["meanr"]) > 1e-3 * found["meanr"]:
            raise RuntimeError("ours and the original disagree: there is nothing to compare")
    limit = run_child(__file__, "product")
    print(
        f"the limit: {limit['gflop']:.0f} GFLOP of products at this machine's {limit['gflops']:.0f} GFLOP/s "
        f"are {limit['gflop'] / limit['gflops']:.2f} s"
    )
    single = run_child(__file__, "float32")
    print(f"the original's loops in float32, every tenth query, times ten: {single['seconds']:.1f} s")
    return runs, sum(found["seconds"] for found in original.values())


def compare_order() -> tuple[float, float]:
    """Return the median seconds of ours, and the seconds of the baseline."""
    ours_first = run_child(__file__, "order_ours")
    original = run_child(__file__, "order_original")
    took = [
        run["seconds"]
        for run in (ours_first, run_child(__file__, "order_ours"), run_child(__file__, "order_ours"))
    ]
    print(f"order similarity: original {original['seconds']:.1f} s (scaled)")
    print(f"order similarity: ours {', '.join(f'{second:.2f} s' for second in took)}", flush=True)
    return statistics.median(took), original["seconds"]


def embeddings(images: int):
    """Return unit vectors of images [N,D], and of captions [5N,D] similar to their image's vector."""
    import numpy as np

    random = np.random.default_rng(0)
    image_emb = random.standard_normal((images, WIDTH), dtype=np.float32)
    text_emb = random.standard_normal((images * CAPTIONS, WIDTH), dtype=np.float32)
    text_emb *= 12
    for caption in range(CAPTIONS):
        text_emb[caption::CAPTIONS] += image_emb
    for vectors in (image_emb, text_emb):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return image_emb, text_emb


def ours() -> dict:
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")  # an evaluation's memory includes Paddle's
    import numpy as np

    from engine.ranking.metrics import mean_rank
    from engine.ranking.ranks import retrieval_ranks

    image_emb, text_emb = embeddings(COSINE_IMAGES)
    ids = np.arange(COSINE_IMAGES)
    found = []
    took = seconds(lambda: found.extend(retrieval_ranks(image_emb, text_emb, ids, ids.repeat(CAPTIONS))))
    means = {"i2t_meanr": mean_rank(found[0]), "t2i_meanr": mean_rank(found[1])}
    return {"seconds": took, "memory": peak_memory(), **means}


def with_lists() -> dict:
    from engine.runtime import set_environment

    set_environment()
    import numpy as np

    from datasets.relevance import own_captions
    from engine.ranking.ranks import Question, rank_counters
    from engine.ranking.short_lists import ShortLists

    sides = embeddings(COSINE_IMAGES)
    owner = np.arange(COSINE_IMAGES).repeat(CAPTIONS)
    question = Question(own_captions(owner, COSINE_IMAGES))
    folds = [np.zeros(len(side), int) for side in sides]

    def rank(listed: int) -> float:
        lists = [ShortLists(listed, *folds, np.arange(len(owner)))] if listed else []
        return seconds(lambda: rank_counters(*sides, question, lists_out=lists))

    rank(0)
    took = alternate(lambda: rank(LISTED), lambda: rank(0))
    return dict(zip(("with", "without"), took, strict=True))


def product() -> dict:
    from engine.runtime import set_environment

    set_environment()
    image_emb, text_emb = embeddings(2000)
    took = min(seconds(lambda: image_emb @ text_emb[:2000].T) for _ in range(10))
    flop = 2 * COSINE_IMAGES**2 * CAPTIONS * WIDTH
    return {"gflop": flop / 1e9, "gflops": 2 * 2000**2 * WIDTH / took / 1e9}


def original_i2t() -> dict:
    images, captions = (vectors.astype(float) for vectors in embeddings(COSINE_IMAGES))
    return timed(lambda: search_captions(images, captions))


def original_t2i() -> dict:
    images, captions = (vectors.astype(float) for vectors in embeddings(COSINE_IMAGES))
    return timed(lambda: search_images(images, captions))


def original_in_float32() -> dict:
    images, captions = embeddings(COSINE_IMAGES)
    took = seconds(lambda: (search_captions(images, captions, 10), search_images(images, captions, 10)))
    return {"seconds": 10 * took}


def timed(search) -> dict:
    found = []
    took = seconds(lambda: found.append(search()))
    return {"seconds": took, "meanr": float(found[0].mean() + 1)}


def search_captions(images, captions, stride: int = 1):
    """Return, for every `stride`-th image, the rank of its best caption, by the original's method."""
    import numpy as np

    ranks = []
    for index in range(0, len(images), stride):
        scores = np.dot(images[index].reshape(1, -1), captions.T).flatten()
        order = np.argsort(scores)[::-1]
        relevant = range(CAPTIONS * index, CAPTIONS * (index + 1))
        ranks.append(min(np.where(order == caption)[0][0] for caption in relevant))
    return np.array(ranks)


def search_images(images, captions, stride: int = 1):
    """Return, for the captions of every `stride`-th image, the image's rank, by the original's method."""
    import numpy as np

    ranks = []
    for index in range(0, len(images), stride):
        scores = np.dot(captions[CAPTIONS * index : CAPTIONS * (index + 1)], images.T)
        for row in scores:
            order = np.argsort(row)[::-1]
            ranks.append(np.where(order == index)[0][0])
    return np.array(ranks)


def order_ours() -> dict:
    from engine.runtime import set_environment

    set_environment()
    import numpy as np

    from engine.ranking.ranks import retrieval_ranks

    image_emb, text_emb = map(np.abs, embeddings(ORDER_IMAGES))
    ids = np.arange(ORDER_IMAGES)
    return {
        "seconds": seconds(lambda: retrieval_ranks(image_emb, text_emb, ids, ids.repeat(CAPTIONS), "order"))
    }


def order_original() -> dict:
    """Return the seconds of the original's scores, 100 queries at a time, both ways, without sorting."""
    import torch

    images, captions = (torch.from_numpy(vectors).abs() for vectors in embeddings(ORDER_IMAGES))

    def scores(image_part, caption_part):
        excess = caption_part.unsqueeze(1).expand(
            len(caption_part), len(image_part), WIDTH
        ) - image_part.unsqueeze(0)
        return -excess.clamp(min=0).pow(2).sum(2).sqrt().t()

    def search() -> None:
        for start in range(0, len(images) // ORDER_SHARE, 100):
            scores(images[start : start + 100], captions)
        for start in range(0, len(captions) // ORDER_SHARE, 100):
            scores(images, captions[start : start + 100])

    return {"seconds": ORDER_SHARE * seconds(search)}


if __name__ == "__main__":
    main()
