"""Write golden/protocols.npz: what eccv-caption and pytorch-metric-learning find on small scores with ties.

    pip install torch==2.13.0 eccv-caption==0.1.0 pytorch-metric-learning==2.9.0
    python tests/parity/make_protocol_golden.py

Both packages see ordered lists, so ties are ordered before: irrelevant items first ("against") or last
("favour"). Run it in an environment of its own; the toolkit does not need these packages.
"""

from pathlib import Path

import numpy as np

IMAGES, CAPTIONS = 60, 180


def small_case() -> tuple[np.ndarray, np.ndarray]:
    """Return scores [60,180] of few values, and bool [60,180]; some rows and columns have no positive."""
    random = np.random.default_rng(11)
    right = random.random((IMAGES, CAPTIONS)) < 0.04
    right[np.arange(IMAGES), 3 * np.arange(IMAGES)] = True
    right[5], right[:, 7] = False, False
    scores = np.round(random.normal(size=right.shape) + 1.2 * right, 1)
    scores[:, 9] = scores[:, 4]  # a sentence that stands twice
    return scores.astype(np.float32), right


def ordered(scores: np.ndarray, right: np.ndarray, rivals_first: bool) -> np.ndarray:
    """Return the places of each row's items, best first; right ones come last or first in a tie."""
    return np.lexsort((right if rivals_first else ~right, -scores), axis=1)


def main() -> None:
    from eccv_caption._metrics import compute_coco1k_r_at_k, compute_eccv_metrics, compute_r_at_k

    scores, right = small_case()
    found = {}
    for direction, rows, hits in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        for rule in ("against", "favour"):
            lists = ordered(rows, hits, rule == "against")
            target = {row: items.tolist() for row, items in enumerate(lists)}
            truth = {row: np.flatnonzero(hit).tolist() for row, hit in enumerate(hits) if hit.any()}
            eccv = compute_eccv_metrics(target, truth)
            values = [eccv[f"eccv_{name}"] for name in ("r1", "rprecision", "map_at_r")]
            sets = {row: set(items) for row, items in truth.items()}
            values += [compute_r_at_k(target, sets, K=k) for k in (1, 5, 10)]
            values += metric_learning(lists, hits)
            found[f"{direction}_{rule}"] = np.array(values)
            slices = []
            for fold in range(5):
                queries = range(len(rows) * fold // 5, len(rows) * (fold + 1) // 5)
                items = set(range(rows.shape[1] * fold // 5, rows.shape[1] * (fold + 1) // 5))
                own = {row: sets[row] & items for row in queries if row in sets and sets[row] & items}
                slices.append([compute_coco1k_r_at_k(target, own, items, K=k) for k in (1, 5, 10)])
            found[f"{direction}_{rule}_folds"] = np.mean(slices, axis=0)
    np.savez(Path(__file__).parent / "golden" / "protocols.npz", **found)


def metric_learning(lists: np.ndarray, hits: np.ndarray) -> list[float]:
    """Return R-precision and MAP@R by pytorch-metric-learning, of the queries that have a right item.

    Each query is asked by itself, as its own class has its own number of right items.
    """
    import torch
    from pytorch_metric_learning.utils import accuracy_calculator as package

    found = []
    for row in np.flatnonzero(hits.any(axis=1)):
        count = int(hits[row].sum())
        labels = torch.from_numpy(hits[row, lists[row, :count]].astype(np.int64))[None]  # [1,R]
        own = torch.ones(1, 1, dtype=torch.int64)
        rest = own, False, (own, torch.tensor([count])), False, False, torch.eq
        found.append(
            [package.r_precision(labels, *rest), package.mean_average_precision(labels, *rest, at_r=True)]
        )
    return np.mean(found, axis=0).tolist()


if __name__ == "__main__":
    main()
