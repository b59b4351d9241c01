"""MAP@R, R-precision and R@K of pictures, against pytorch-metric-learning's AccuracyCalculator.

There are 30,000 embeddings of width 512 in 5,000 classes, which are searched among each other, and 15,000 in
2,500 classes. Of the larger set AccuracyCalculator is told to take as many neighbours as a class has
("max_bin_count"); as it comes it takes all, which needs 23 GB there, so that the smaller one shows it. Ours
counts R@1, R@10, R@100, R@1000, MAP@R and R-precision together. AccuracyCalculator computes R@1 (precision at
1), MAP@R and R-precision, with the neighbours of its CustomKNN (a product and top k in PyTorch), which does
without Faiss. Each measurement has its own process, and memory is what the process has beyond the embeddings
and the libraries.
"""

from _report import peak_memory, report, run_child, seconds

import json
import statistics
import sys

SIZES, WIDTH, IN_CLASS = {"max_bin_count": 30_000, "all": 15_000}, 512, 6


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps({"ours": ours, "package": package}[sys.argv[1]](sys.argv[2])))
        return
    for neighbours in SIZES:
        compare(neighbours)


def compare(neighbours: str) -> None:
    """Report time and memory of both, which take turns."""
    runs, others = [run_child(__file__, "ours", neighbours)], []
    for _ in range(2):
        others.append(run_child(__file__, "package", neighbours))
        runs.append(run_child(__file__, "ours", neighbours))
    for name in ("r1", "map_at_r", "r_precision"):
        print(f"{name}: ours {runs[0][name]:.3f}, AccuracyCalculator {others[0][name]:.3f}", flush=True)
        if abs(runs[0][name] - others[0][name]) > 0.01:
            raise RuntimeError("the two disagree: there is nothing to compare")
    what = f"MAP@R, R-precision, R@K of {SIZES[neighbours]} x {WIDTH}, against k={neighbours}"
    took, other = (statistics.median(run["seconds"] for run in each) for each in (runs, others))
    report(what, took, other, goal=3, unit="s", higher_is_better=False)
    memory, other = (max(run["memory"] for run in each) for each in (runs, others))
    report(f"memory of {what}", memory, other, goal=10, unit="GB", higher_is_better=False)


def embeddings(pictures: int):
    """Return unit embeddings in classes of IN_CLASS, and their labels."""
    import numpy as np

    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(pictures) % (pictures // IN_CLASS))
    centres = random.standard_normal((pictures // IN_CLASS, WIDTH), dtype=np.float32)
    vectors = centres[labels] + 2.5 * random.standard_normal((pictures, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def ours(neighbours: str) -> dict:
    from engine.runtime import prepare_runtime

    prepare_runtime("cpu")
    from engine.ranking.pictures.metrics import summarize_images
    from engine.ranking.pictures.ranks import image_ranks

    vectors, labels = embeddings(SIZES[neighbours])
    before, found = peak_memory(), []
    took = seconds(lambda: found.append(image_ranks(vectors, labels)))
    metrics = summarize_images(found[0].ranks, found[0].average_precision, found[0].r_precision)
    return {"seconds": took, "memory": peak_memory() - before, **metrics}


def package(neighbours: str) -> dict:
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    vectors, labels = (torch.from_numpy(each) for each in embeddings(SIZES[neighbours]))
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    knn = CustomKNN(CosineSimilarity(), batch_size=1000)
    k = None if neighbours == "all" else neighbours
    calculator = AccuracyCalculator(include=names, k=k, knn_func=knn)
    before, found = peak_memory(), {}
    took = seconds(lambda: found.update(calculator.get_accuracy(vectors, labels)))
    values = dict(zip(("r1", "map_at_r", "r_precision"), (100 * found[name] for name in names), strict=True))
    return {"seconds": took, "memory": peak_memory() - before, **values}


if __name__ == "__main__":
    main()
